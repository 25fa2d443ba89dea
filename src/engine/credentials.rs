//! Who a credential belongs to: known hashes, compared in constant time, or an expression.

use std::borrow::Cow;

use sha2::{Digest as _, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use crate::config::values::{HashVerifier, Verifier as Configured};
use crate::engine::cx::Cx;
use crate::engine::expression::Program;
use crate::engine::failure::CheckError;
use crate::engine::policy::Compiling;

const PREFIX: &str = "sha256:";

/// Verifies a credential.
#[derive(Debug)]
pub(crate) enum Verifier {
    /// Principal by SHA-256 of the credential.
    Hashes(Vec<([u8; 32], String)>),
    /// An expression over the request and `credential`.
    Cel(Program),
}

impl Verifier {
    /// Compiles a verifier; errors go under `key`, and nothing of the value is shown.
    pub(crate) fn compile(compiling: &mut Compiling<'_>, key: &str, verifier: &Configured) -> Option<Self> {
        match verifier {
            Configured::Cel(source) => Program::verifier(compiling, key.to_owned(), source).map(Self::Cel),
            Configured::Hashes(hashes) => Some(Self::Hashes(known(compiling, key, hashes))),
        }
    }

    /// The principal of a credential; `None` rejects it.
    pub(crate) fn verify<'p>(
        &'p self,
        cx: &mut Cx<'_, 'p, '_>,
        credential: &str,
    ) -> Result<Option<Cow<'p, str>>, CheckError> {
        match self {
            Self::Cel(program) => program.accepts(cx, credential),
            Self::Hashes(known) => Ok(find(known, credential).map(Cow::Borrowed)),
        }
    }
}

/// Looks at every hash whatever it finds, so that time tells nothing about which one is close.
fn find<'p>(known: &'p [([u8; 32], String)], credential: &str) -> Option<&'p str> {
    let digest: [u8; 32] = Sha256::digest(credential.as_bytes()).into();
    let mut found = u64::MAX;
    for (index, (hash, _)) in (0u64..).zip(known) {
        found.conditional_assign(&index, hash.ct_eq(&digest));
    }
    usize::try_from(found).ok().and_then(|index| known.get(index)).map(|(_, principal)| principal.as_str())
}

fn known(compiling: &mut Compiling<'_>, key: &str, verifier: &HashVerifier) -> Vec<([u8; 32], String)> {
    let mut known = Vec::new();
    for (position, (hash, principal)) in verifier.hashes.iter().enumerate() {
        match parse(hash) {
            Some(hash) => known.push((hash, principal.clone())),
            None => compiling.error(
                format!("{key}.hashes"),
                format!("entry {} is not `sha256:` and 64 hexadecimal digits", position + 1),
            ),
        }
    }
    let Some(path) = &verifier.file else { return known };
    let Some(text) = compiling.feeds.credentials.get(path) else {
        compiling.error(format!("{key}.file"), format!("`{}` could not be read", path.display()));
        return known;
    };
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (hash, principal) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match parse(hash) {
            Some(hash) => known.push((hash, principal.trim().to_owned())),
            None => compiling.error(
                format!("{key}.file"),
                format!("line {number} does not begin with `sha256:` and 64 hexadecimal digits"),
            ),
        }
    }
    known
}

fn parse(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_prefix(PREFIX)?.as_bytes();
    let mut hash = [0; 32];
    if digits.len() != 2 * hash.len() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_read_strictly() {
        let digits = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let hash = parse(&format!("sha256:{digits}")).unwrap();
        assert_eq!(hash.first(), Some(&0x2c));
        assert_eq!(parse(&format!("sha256:{}", digits.to_uppercase())), Some(hash));
        for bad in [
            "",
            digits,
            "sha256:",
            "sha256:zz",
            &format!("sha256:{digits}0"),
            &format!("sha256:+{}", digits.get(1..).unwrap()),
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_right_credential_finds_its_principal() {
        let known: Vec<_> =
            ["hello", "world", "hello"].iter().map(|text| (Sha256::digest(text).into(), (*text).to_owned())).collect();
        assert_eq!(find(&known, "world"), Some("world"));
        assert_eq!(find(&known, "hello"), Some("hello"));
        for wrong in ["", "hell", "hello ", "HELLO"] {
            assert_eq!(find(&known, wrong), None, "{wrong}");
        }
        assert_eq!(find(&[], ""), None);
    }
}
