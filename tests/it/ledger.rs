//! The tables of tests in the documentation name tests that exist.

use std::fs;
use std::path::Path;

/// Documents with a column of test names.
const DOCUMENTS: &[&str] = &["docs/shared-state.md"];

#[test]
fn every_named_test_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = 0;
    for document in DOCUMENTS {
        let text = fs::read_to_string(root.join(document)).unwrap();
        for row in text.lines().filter(|line| line.starts_with("| ")) {
            let last = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap();
            for name in last.split('`').skip(1).step_by(2) {
                let Some((module, test)) = name.split_once("::") else { continue };
                let file = root.join("tests/it").join(format!("{module}.rs"));
                let code = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{document}: {name}: {error}"));
                assert!(code.contains(&format!("fn {test}(")), "{document} names {name}, which does not exist");
                named += 1;
            }
        }
    }
    assert!(23 < named, "the tables were read");
}
