//! Addresses and networks, as configuration and headers write them.
#![no_main]

use envoy_guard::model::addr::{ClientAddr, IpEntry};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(entry) = text.parse::<IpEntry>() else { return };
    // Whatever is read contains the address it was written with.
    let (written, length) = text.trim().split_once('/').unwrap_or((text.trim(), "128"));
    if let Ok(address) = written.parse::<std::net::IpAddr>() {
        // `::ffff:192.0.2.1/90` is wider than IPv4: a network of IPv6, and no address of IPv4 is in it.
        let is_mapped = matches!(address, std::net::IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
        if is_mapped && length.parse::<u8>().is_ok_and(|length| length < 96) {
            return;
        }
        assert!(entry.contains(ClientAddr::from(address)) || entry.is_everything(), "{text}");
    }
});
