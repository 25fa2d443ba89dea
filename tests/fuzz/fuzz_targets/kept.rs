//! Compiled patterns, kept between runs in `databases/`: compiling them takes longer than many inputs.

use std::path::PathBuf;

use envoy_guard::detect::cache::DatabaseCache;

/// Files in a folder beside the targets. What cannot be kept is compiled again.
pub struct Kept;

fn path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/databases")).join(name)
}

impl DatabaseCache for Kept {
    fn read(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(path(name)).ok()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let file = path(name);
        let _ = file.parent().map(std::fs::create_dir_all).map(|_| std::fs::write(&file, bytes));
    }

    fn reject(&self, name: &str, _: &str) {
        let _ = std::fs::remove_file(path(name));
    }
}
