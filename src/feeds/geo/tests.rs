use std::net::{IpAddr, Ipv4Addr};

use super::*;

/// A data field that a record may hold.
enum Field {
    Text(&'static str),
    Map(Vec<(&'static str, Self)>),
    Short(u16),
    Long(u32),
    Epoch(u64),
    NoTexts,
}

fn encode(field: &Field, out: &mut Vec<u8>) {
    match field {
        Field::Text(text) => {
            // Lengths from 29 on stand in a byte of their own.
            let length = u8::try_from(text.len()).unwrap();
            match length.checked_sub(29) {
                None => out.push(2 << 5 | length),
                Some(more) => out.extend([2 << 5 | 29, more]),
            }
            out.extend(text.as_bytes());
        }
        Field::Map(pairs) => {
            out.push(7 << 5 | u8::try_from(pairs.len()).unwrap());
            for (name, value) in pairs {
                encode(&Field::Text(name), out);
                encode(value, out);
            }
        }
        Field::Short(value) => {
            out.push(5 << 5 | 2);
            out.extend(value.to_be_bytes());
        }
        Field::NoTexts => out.extend([0, 4]),
        Field::Epoch(value) => {
            out.extend([8, 2]);
            out.extend(value.to_be_bytes());
        }
        Field::Long(value) => {
            out.push(6 << 5 | 4);
            out.extend(value.to_be_bytes());
        }
    }
}

/// Writes a small IPv4 database: networks with one record each.
fn database(records: Vec<(&str, Field)>) -> Vec<u8> {
    let mut nodes: Vec<[Option<usize>; 2]> = vec![[None, None]];
    let mut leaves: Vec<(usize, usize, usize)> = Vec::new();
    let mut data = Vec::new();
    for (network, record) in &records {
        let net: ipnet::Ipv4Net = network.parse().unwrap();
        let offset = data.len();
        encode(record, &mut data);
        let mut node = 0;
        for depth in 0..net.prefix_len() {
            let bit = usize::from(u32::from(net.network()) >> (31 - depth) & 1 == 1);
            if depth + 1 == net.prefix_len() {
                leaves.push((node, bit, offset));
            } else if let Some(next) = nodes[node][bit] {
                node = next;
            } else {
                nodes.push([None, None]);
                let next = nodes.len() - 1;
                nodes[node][bit] = Some(next);
                node = next;
            }
        }
    }
    let count = nodes.len();
    let mut bytes = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        for (bit, next) in node.iter().enumerate() {
            let leaf = leaves.iter().find(|(at, side, _)| (*at, *side) == (index, bit));
            let value = leaf.map_or_else(|| next.unwrap_or(count), |(.., offset)| count + 16 + offset);
            bytes.extend(&u32::try_from(value).unwrap().to_be_bytes()[1..]);
        }
    }
    bytes.extend([0; 16]);
    bytes.extend(&data);
    bytes.extend(b"\xab\xcd\xefMaxMind.com");
    encode(
        &Field::Map(vec![
            ("binary_format_major_version", Field::Short(2)),
            ("binary_format_minor_version", Field::Short(0)),
            ("build_epoch", Field::Epoch(1_795_219_200)),
            ("database_type", Field::Text("test")),
            ("description", Field::Map(Vec::new())),
            ("ip_version", Field::Short(4)),
            ("languages", Field::NoTexts),
            ("node_count", Field::Long(u32::try_from(count).unwrap())),
            ("record_size", Field::Short(24)),
        ]),
        &mut bytes,
    );
    bytes
}

fn country(mmdb: &Mmdb, ip: [u8; 4]) -> Option<String> {
    mmdb.country(IpAddr::V4(Ipv4Addr::from(ip)).into()).map(|code| code.to_string())
}

#[test]
fn every_layout_is_understood() {
    use Field::{Map, Text};
    for (name, record) in [
        ("MaxMind", Map(vec![("country", Map(vec![("iso_code", Text("DE"))]))])),
        ("IPinfo free", Map(vec![("asn", Text("AS1")), ("country", Text("DE"))])),
        ("IPinfo lite", Map(vec![("country", Text("Germany")), ("country_code", Text("de"))])),
    ] {
        let mmdb = Mmdb::new(database(vec![("81.0.0.0/8", record)])).unwrap();
        assert_eq!(country(&mmdb, [81, 2, 3, 4]).as_deref(), Some("DE"), "{name}");
        assert_eq!(country(&mmdb, [82, 2, 3, 4]), None, "{name}: outside");
    }
}

#[test]
fn records_without_a_country_are_unresolved() {
    let mmdb = Mmdb::new(database(vec![
        ("10.0.0.0/8", Field::Map(vec![("asn", Field::Text("AS1"))])),
        ("81.0.0.0/8", Field::Map(vec![("country", Field::Text("FR"))])),
    ]))
    .unwrap();
    assert_eq!(country(&mmdb, [10, 0, 0, 1]), None);
    assert_eq!(country(&mmdb, [81, 0, 0, 1]).as_deref(), Some("FR"));
    assert_eq!(mmdb.country("2001:db8::1".parse::<IpAddr>().unwrap().into()), None, "IPv6 in an IPv4 database");
}

#[test]
fn other_files_are_refused() {
    assert!(matches!(Mmdb::new(b"not a database".to_vec()), Err(GeoError::Format(_))));
    let without = database(vec![("10.0.0.0/8", Field::Map(vec![("asn", Field::Text("AS1"))]))]);
    assert_eq!(Mmdb::new(without).unwrap_err(), GeoError::NoCountries);
}

#[test]
fn operators_are_found_in_every_layout() {
    use Field::{Long, Map, Text};
    let number = |name| vec![("autonomous_system_number", Long(64500)), ("autonomous_system_organization", Text(name))];
    for (name, record) in [
        ("MaxMind", Map(number("Example"))),
        ("MaxMind, larger", Map(vec![("traits", Map(number("Example")))])),
        ("IPinfo", Map(vec![("as_name", Text("Example")), ("asn", Text("AS64500")), ("country", Text("DE"))])),
    ] {
        let mmdb = Mmdb::of_operators(database(vec![("81.0.0.0/8", record)])).unwrap();
        let operator = |ip: [u8; 4]| mmdb.operator(IpAddr::from(ip).into());
        assert_eq!(operator([81, 2, 3, 4]), Some(Operator { asn: 64500, name: Some("Example") }), "{name}");
        assert_eq!(operator([82, 2, 3, 4]), None, "{name}: outside");
    }
    let without = database(vec![("81.0.0.0/8", Map(vec![("country", Text("DE"))]))]);
    assert_eq!(Mmdb::of_operators(without.clone()).unwrap_err(), GeoError::NoOperators);
    assert_eq!(Mmdb::new(without).unwrap().operator(IpAddr::from([81, 0, 0, 1]).into()), None);
}
