//! What it costs to find an address among the ranges of a provider, and on a list of a million addresses.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use envoy_guard::model::addr::{ClientAddr, IpEntry};
use envoy_guard::model::lists::{AddressList, Entries, blocked};
use envoy_guard::model::place::{CloudRanges, CloudSelectors, Provider};

use crate::cpu;
use crate::table::Report;

/// Networks of the provider: AWS has about as many.
const NETWORKS: u32 = 10_000;
/// Addresses of the list.
const ENTRIES: u32 = 1_000_000;
/// Lookups in a round.
const LOOKUPS: usize = 10_000;
/// An odd number that spreads addresses over the whole space.
const SPREAD: u32 = 2_654_435_761;

/// Measures and reports nanoseconds a lookup.
pub fn run(report: &mut Report) -> Result<(), Box<dyn std::error::Error>> {
    let addresses: Vec<ClientAddr> =
        (0..LOOKUPS as u32).map(|n| IpAddr::from(Ipv4Addr::from(n.wrapping_mul(SPREAD))).into()).collect();
    let ranges = ranges()?;
    let (selectors, _) = CloudSelectors::parse(["AWS", "AWS:!region-3"]);
    say("an address among 10,000 ranges of a provider", "cloud", report, || {
        addresses.iter().filter(|addr| selectors.find(&ranges, **addr).is_some()).count()
    });
    let lines = (0..ENTRIES).map(|n| (n, IpEntry::Addr(IpAddr::from(Ipv4Addr::from(n.wrapping_mul(SPREAD))).into())));
    let on = |entries: Entries| [AddressList { name: "list".into(), allows: false, entries: entries.into() }];
    let lists = on(Entries::new(lines));
    say("an address on a list of 1,000,000", "list", report, || {
        addresses.iter().filter(|addr| blocked(&lists, **addr).is_some()).count()
    });
    let nets = (0..ENTRIES).map(|n| {
        let text = format!("{}/{}", Ipv4Addr::from(n.wrapping_mul(SPREAD)), 24 + n % 8);
        Ok((n, text.parse::<IpEntry>()?))
    });
    let nets = nets.collect::<Result<Vec<_>, Box<dyn std::error::Error>>>()?;
    let lists = on(Entries::new(nets));
    say("an address on a list of 1,000,000 networks", "networks", report, || {
        addresses.iter().filter(|addr| blocked(&lists, **addr).is_some()).count()
    });
    Ok(())
}

/// Networks of 16 to 28 bits, a fifth of them IPv6, in twenty regions.
fn ranges() -> Result<CloudRanges, Box<dyn std::error::Error>> {
    let mut nets = Vec::new();
    for n in 0..NETWORKS {
        let spread = n.wrapping_mul(SPREAD);
        let text = match n % 5 {
            0 => format!("{}/44", Ipv6Addr::from(0x2600_u128 << 112 | u128::from(spread) << 80)),
            _ => format!("{}/{}", Ipv4Addr::from(spread), 16 + n % 13),
        };
        nets.push((text.parse()?, Some(format!("region-{}", n % 20).into())));
    }
    let mut ranges = CloudRanges::default();
    ranges.set(Provider::Aws, Arc::new(nets.into_iter().collect()));
    Ok(ranges)
}

fn say(what: &str, name: &str, report: &mut Report, mut round: impl FnMut() -> usize) {
    let found = round();
    let us = cpu::of(20, 1, || {
        black_box(round());
    });
    let ns = us * 1000.0 / LOOKUPS as f64;
    let text = format!("{what}: {ns:.0} ns ({found} of {LOOKUPS} found)");
    report.fact(text, serde_json::json!({"what": format!("lookup, {name}"), "ns": ns}));
}
