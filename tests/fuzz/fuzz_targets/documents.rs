//! Documents from outside: lists of addresses, ranges of cloud providers, databases of countries, dynamic rules, what
//! participants share, and requests as people write them down. What is read and written again reads the same.
//!
//! An input is a byte that chooses the kind, then the document.
#![no_main]

use envoy_guard::app::curl;
use envoy_guard::app::input::Input;
use envoy_guard::feeds::geo::Mmdb;
use envoy_guard::feeds::list::{self, Bounds};
use envoy_guard::feeds::{cloud, rules};
use envoy_guard::model::addr::ClientAddr;
use envoy_guard::model::place::{Countries, Provider};
use envoy_guard::model::time::Timestamp;
use envoy_guard::state::formats::{self, RulesSnapshot};
use libfuzzer_sys::fuzz_target;

const BOUNDS: Bounds = Bounds { entries_max: 64, bad_lines_max: 8 };
const NOW: Timestamp = Timestamp(1_800_000_000.0);
const ASKED: [&str; 5] = ["203.0.113.9", "0.0.0.0", "255.255.255.255", "2001:db8::1", "::ffff:192.0.2.1"];

fuzz_target!(|data: &[u8]| {
    let [kind, bytes @ ..] = data else { return };
    match kind % 8 {
        0 => lists(bytes),
        1 => ranges(kind / 8, bytes),
        2 => database(Mmdb::new(bytes.to_vec()).ok()),
        3 => database(Mmdb::of_operators(bytes.to_vec()).ok()),
        4 => dynamic_rules(bytes),
        5 => shared(bytes),
        6 => written_down(bytes, Input::from_json),
        _ => written_down(bytes, curl::parse),
    }
});

/// No more is kept than may be, and a list without its comments is the same list.
fn lists(bytes: &[u8]) {
    let Ok(list) = list::parse(bytes, BOUNDS) else { return };
    assert!(list.entries.len() <= BOUNDS.entries_max as usize && list.bad_lines <= BOUNDS.bad_lines_max);
    let commented: Vec<u8> =
        bytes.split(|byte| *byte == b'\n').flat_map(|line| [line, b" # note\n"].concat()).collect();
    let again = list::parse(&commented, BOUNDS).expect("a comment changes nothing");
    assert_eq!((again.entries.len(), again.bad_lines), (list.entries.len(), list.bad_lines));
}

fn ranges(provider: u8, bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let provider = Provider::ALL[usize::from(provider) % Provider::ALL.len()];
    let Ok(ranges) = cloud::parse(provider, text) else { return };
    let networks = cloud::networks(&ranges);
    let shared = cloud::entries(&networks);
    let again = cloud::read_entries(&shared).expect("what was shared can be read");
    assert_eq!(cloud::entries(&cloud::networks(&again)), shared);
    assert_eq!(formats::read_cloud_store(&formats::cloud_store(&shared)).as_ref(), Some(&shared));
}

fn database(database: Option<Mmdb>) {
    let Some(database) = database else { return };
    for address in ASKED {
        let address = ClientAddr::from(address.parse::<std::net::IpAddr>().expect("an address"));
        let _ = (database.country(address), database.operator(address));
    }
    let _ = (database.nodes(), format!("{database:?}"));
}

/// Rules that are accepted are accepted as every participant stores them, and mean the same then.
fn dynamic_rules(bytes: &[u8]) {
    let Ok(Some(checked)) = rules::read(bytes, NOW) else { return };
    let stored = RulesSnapshot::new(checked.rules.clone()).text();
    let snapshot = RulesSnapshot::read(&stored).expect("what was stored can be read");
    let again = rules::restore(snapshot.rules).expect("what was accepted is accepted");
    assert_eq!(again.rules, checked.rules);
    assert_eq!((&again.bans, &again.unbans), (&checked.bans, &checked.unbans));
    assert!(again.covers(&checked) && checked.covers(&again));
    let _ = checked.has_expired(NOW);
}

fn shared(bytes: &[u8]) {
    assert_eq!(formats::text_as_bytes(&formats::bytes_as_text(bytes)).as_deref(), Some(bytes));
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(entries) = formats::read_cloud_store(text) {
        assert_eq!(formats::read_cloud_store(&formats::cloud_store(&entries)), Some(entries));
    }
    let _ = (formats::read_cloud_ranges(text), formats::text_as_bytes(text));
    if let Some(snapshot) = RulesSnapshot::read(text) {
        assert_eq!(RulesSnapshot::read(&snapshot.text()), Some(snapshot));
    }
}

/// What was understood can be looked at as a request.
fn written_down<E>(bytes: &[u8], read: impl Fn(&str) -> Result<Input, E>) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(mut input) = read(text) else { return };
    input.or_stranger(1);
    let request = input.view();
    assert_eq!(request.headers.len(), input.headers.len());
    assert_eq!(request.body.bytes(), input.body);
    assert_eq!(request.target.raw, input.path);
}
