//! Writes small MMDB files for tests: IPv4 addresses and their countries, in either of the two usual layouts.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Where the country code stands in a record.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Layout {
    /// `{"country": {"iso_code": "US"}}`
    MaxMind,
    /// `{"country": "US"}`
    IpInfo,
}

enum Child {
    Empty,
    Node(usize),
    Data(usize),
}

/// The bytes of a database with one record for each address.
pub(crate) fn database(layout: Layout, countries: &BTreeMap<Ipv4Addr, String>) -> Vec<u8> {
    let mut data = Vec::new();
    let mut nodes: Vec<[Child; 2]> = vec![[Child::Empty, Child::Empty]];
    for (address, country) in countries {
        let offset = data.len();
        match layout {
            Layout::MaxMind => {
                map(&mut data, 1);
                text(&mut data, "country");
                map(&mut data, 1);
                text(&mut data, "iso_code");
            }
            Layout::IpInfo => {
                map(&mut data, 1);
                text(&mut data, "country");
            }
        }
        text(&mut data, country);
        insert(&mut nodes, u32::from(*address), offset);
    }
    let count = nodes.len();
    let mut file = Vec::new();
    for node in &nodes {
        for child in node {
            let value = match child {
                Child::Empty => count,
                Child::Node(index) => *index,
                Child::Data(offset) => count + 16 + offset,
            };
            file.extend_from_slice(&(value as u32).to_be_bytes()[1..]);
        }
    }
    file.extend_from_slice(&[0; 16]);
    file.extend_from_slice(&data);
    file.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
    metadata(&mut file, count);
    file
}

fn insert(nodes: &mut Vec<[Child; 2]>, address: u32, offset: usize) {
    let mut at = 0;
    for bit in (0..32).rev() {
        let side = (address >> bit & 1) as usize;
        if bit == 0 {
            nodes[at][side] = Child::Data(offset);
            return;
        }
        at = match nodes[at][side] {
            Child::Node(next) => next,
            _ => {
                nodes.push([Child::Empty, Child::Empty]);
                let next = nodes.len() - 1;
                nodes[at][side] = Child::Node(next);
                next
            }
        };
    }
}

fn map(out: &mut Vec<u8>, entries: u8) {
    out.push(7 << 5 | entries);
}

fn text(out: &mut Vec<u8>, value: &str) {
    out.push(2 << 5 | u8::try_from(value.len()).unwrap());
    out.extend_from_slice(value.as_bytes());
}

fn metadata(out: &mut Vec<u8>, nodes: usize) {
    map(out, 9);
    text(out, "node_count");
    out.push(6 << 5 | 4);
    out.extend_from_slice(&(nodes as u32).to_be_bytes());
    for (name, value) in [
        ("record_size", 24_u16),
        ("ip_version", 4),
        ("binary_format_major_version", 2),
        ("binary_format_minor_version", 0),
    ] {
        text(out, name);
        out.push(5 << 5 | 2);
        out.extend_from_slice(&value.to_be_bytes());
    }
    text(out, "build_epoch");
    out.extend_from_slice(&[8, 2]);
    out.extend_from_slice(&1_u64.to_be_bytes());
    text(out, "database_type");
    text(out, "Test");
    text(out, "languages");
    out.extend_from_slice(&[0, 4]);
    text(out, "description");
    map(out, 0);
}

#[test]
fn a_reader_finds_what_was_written() {
    let address = Ipv4Addr::new(198, 51, 100, 9);
    let countries = BTreeMap::from([(address, "CN".to_owned()), (Ipv4Addr::new(198, 51, 100, 8), "US".to_owned())]);
    for layout in [Layout::MaxMind, Layout::IpInfo] {
        let reader = maxminddb::Reader::from_source(database(layout, &countries)).unwrap();
        let record: serde_json::Value = reader.lookup(address.into()).unwrap().decode().unwrap().unwrap();
        let code = record["country"].as_str().or_else(|| record["country"]["iso_code"].as_str());
        assert_eq!(code, Some("CN"), "{layout:?}");
        assert!(!reader.lookup("192.0.2.1".parse().unwrap()).unwrap().has_data());
    }
}
