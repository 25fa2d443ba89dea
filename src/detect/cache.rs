//! Compiled databases kept between runs. Knows what a kept database looks like and when to believe it; keeps nothing
//! itself: the shell brings a place to keep bytes in.

use sha2::{Digest, Sha256};

use crate::detect::rows::Expression;

/// A place that keeps compiled databases between runs. It holds bytes by name and need not be trusted with their form:
/// whatever it gives back is checked before use. Nothing it does may fail the caller; a place that is full, absent or
/// not allowed simply keeps nothing.
pub trait DatabaseCache {
    /// What was kept under `name`, 64 hexadecimal digits.
    fn read(&self, name: &str) -> Option<Vec<u8>>;

    /// Keeps `bytes` under `name`.
    fn write(&self, name: &str, bytes: &[u8]);

    /// What was read under `name` is not what was written: it is built anew and written over.
    fn reject(&self, name: &str, why: &str);
}

/// Keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCache;

impl DatabaseCache for NoCache {
    fn read(&self, _: &str) -> Option<Vec<u8>> {
        None
    }

    fn write(&self, _: &str, _: &[u8]) {}

    fn reject(&self, _: &str, _: &str) {}
}

/// What a kept database begins with; the digit changes with the layout.
const MAGIC: [u8; 8] = *b"EGUARDB1";
/// Bytes of a SHA-256.
const DIGEST: usize = 32;
/// Magic, key, least width, length of the database, digest of all of it.
const HEADER: usize = MAGIC.len() + DIGEST + 8 + 8 + DIGEST;

/// Stands for everything that decides what a database holds: expressions, flags, library, machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Key([u8; DIGEST]);

impl Key {
    /// Of `expressions` compiled by the library that calls itself `library` for the machine `machine`.
    pub(crate) fn of(library: &str, machine: &str, expressions: &[Expression<'_>]) -> Self {
        let mut hasher = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        add(&MAGIC);
        add(library.as_bytes());
        add(machine.as_bytes());
        for Expression { id, pattern, flags, prefilter, each } in expressions {
            add(&(*id as u64).to_le_bytes());
            add(pattern.as_bytes());
            add(&[flags.case_sensitive, flags.multiline, flags.dotall, flags.utf8, *prefilter, *each].map(u8::from));
        }
        Self(hasher.finalize().into())
    }

    /// In hexadecimal digits.
    pub(crate) fn name(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A database as it is kept: with its key, the least length it can match, and a digest of all of it.
pub(crate) fn seal(key: &Key, width_min: usize, database: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(HEADER + database.len());
    sealed.extend_from_slice(&MAGIC);
    sealed.extend_from_slice(&key.0);
    sealed.extend_from_slice(&(width_min as u64).to_le_bytes());
    sealed.extend_from_slice(&(database.len() as u64).to_le_bytes());
    let digest = digest(&sealed, database);
    sealed.extend_from_slice(&digest);
    sealed.extend_from_slice(database);
    sealed
}

/// The least length and the database of what [`seal`] made for the same key.
///
/// # Errors
/// In which way it is something else.
pub(crate) fn unseal<'s>(key: &Key, sealed: &'s [u8]) -> Result<(usize, &'s [u8]), &'static str> {
    let (header, database) = sealed.split_at_checked(HEADER).ok_or("is too short")?;
    let (signed, signature) = header.split_at_checked(HEADER - DIGEST).ok_or("is too short")?;
    let rest = signed.strip_prefix(&MAGIC).ok_or("is no kept database")?;
    let rest = rest.strip_prefix(&key.0).ok_or("belongs to other patterns, or another library")?;
    let (width_min, length) = rest.split_first_chunk::<8>().ok_or("is too short")?;
    let length = length.first_chunk::<8>().ok_or("is too short")?;
    if usize::try_from(u64::from_le_bytes(*length)) != Ok(database.len()) {
        return Err("has another length than it says");
    }
    if digest(signed, database) != signature {
        return Err("has been damaged: its checksum differs");
    }
    let width_min = usize::try_from(u64::from_le_bytes(*width_min)).map_err(|_| "has an impossible width")?;
    Ok((width_min, database))
}

fn digest(header: &[u8], database: &[u8]) -> [u8; DIGEST] {
    Sha256::new().chain_update(header).chain_update(database).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::rows::Flags;

    fn key(pattern: &str, library: &str) -> Key {
        let expression = Expression { id: 3, pattern, flags: Flags::default(), prefilter: false, each: false };
        Key::of(library, "here", &[expression])
    }

    #[test]
    fn what_was_sealed_is_believed_and_nothing_else() {
        let ours = key("abc", "5.4");
        let sealed = seal(&ours, 3, b"database");
        assert_eq!(unseal(&ours, &sealed), Ok((3, b"database".as_slice())));
        for length in 0..sealed.len() {
            assert!(unseal(&ours, &sealed[..length]).is_err(), "cut to {length}");
        }
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert!(unseal(&ours, &damaged).is_err(), "byte {at}");
        }
        let longer: Vec<u8> = sealed.iter().copied().chain([0]).collect();
        assert!(unseal(&ours, &longer).is_err());
        assert!(unseal(&key("abd", "5.4"), &sealed).is_err());
        assert!(unseal(&key("abc", "5.5"), &sealed).is_err());
    }

    #[test]
    fn a_key_tells_everything_apart_that_changes_a_database() {
        let flags = Flags::default();
        let plain = |id, pattern| Expression { id, pattern, flags, prefilter: false, each: false };
        let dotall = Flags { dotall: true, ..flags };
        let keys = [
            Key::of("a", "b", &[]),
            Key::of("ab", "", &[]),
            Key::of("a", "b", &[plain(0, "x")]),
            Key::of("a", "b", &[plain(1, "x")]),
            Key::of("a", "b", &[plain(0, "x"), plain(1, "y")]),
            Key::of("a", "b", &[plain(0, "xy")]),
            Key::of("a", "b", &[Expression { prefilter: true, ..plain(0, "x") }]),
            Key::of("a", "b", &[Expression { each: true, ..plain(0, "x") }]),
            Key::of("a", "b", &[Expression { flags: dotall, ..plain(0, "x") }]),
        ];
        let names: std::collections::BTreeSet<String> = keys.iter().map(Key::name).collect();
        assert_eq!(names.len(), keys.len());
        assert!(names.iter().all(|name| name.len() == 64));
    }
}
