//! Addresses and networks, as configuration and headers write them.
#![no_main]

use envoy_guard::model::addr::{ClientAddr, IpEntry};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(entry) = text.parse::<IpEntry>() else { return };
    // Whatever is read contains the address it was written with.
    let written = text.trim().split('/').next().unwrap_or_default();
    if let Ok(address) = written.parse::<std::net::IpAddr>() {
        assert!(entry.contains(ClientAddr::from(address)) || entry.is_everything(), "{text}");
    }
});
