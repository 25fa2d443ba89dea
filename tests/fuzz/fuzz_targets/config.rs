//! Configuration in all three languages, from a file, variables and flags.
#![no_main]

use std::io::Write;

use envoy_guard::config::{self, Sources};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [selector, text @ ..] = data else { return };
    let text = String::from_utf8_lossy(text);
    if selector & 3 == 3 {
        let Some((key, value)) = text.split_once('=') else { return };
        let pair = vec![(key.to_owned(), value.to_owned())];
        let sources = match selector & 4 {
            0 => Sources { overrides: pair, ..Sources::default() },
            _ => Sources { env: vec![(format!("ENVOY_GUARD_{key}"), value.to_owned())], ..Sources::default() },
        };
        let _ = config::load(&sources);
        return;
    }
    let suffix = [".yaml", ".toml", ".json"][usize::from(selector % 3)];
    let Ok(mut file) = tempfile::Builder::new().suffix(suffix).tempfile() else { return };
    if file.write_all(text.as_bytes()).is_ok() {
        let _ = config::load(&Sources { file: Some(file.path().to_owned()), ..Sources::default() });
    }
});
