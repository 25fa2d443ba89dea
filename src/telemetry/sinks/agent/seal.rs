//! AES-256-GCM around a batch: `base64url(nonce ‖ ciphertext ‖ tag)`.

use std::fmt;

use base64_simd::{URL_SAFE, URL_SAFE_NO_PAD};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use crate::telemetry::sinks::agent::AgentError;

/// Encrypts batches under the key of a project.
pub(super) struct Sealer {
    key: LessSafeKey,
    random: SystemRandom,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    /// A sealer for a key of 32 bytes in URL-safe base64, padded or not. It has proven that it works.
    pub(super) fn new(key: &str) -> Result<Self, AgentError> {
        let bytes = URL_SAFE_NO_PAD.decode_to_vec(key.trim().trim_end_matches('=')).map_err(|_| AgentError::Key)?;
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| AgentError::Key)?;
        let sealer = Self { key: LessSafeKey::new(key), random: SystemRandom::new() };
        let probe = b"envoy-guard";
        let opened = sealer.seal(probe).and_then(|sealed| sealer.open(&sealed));
        match opened {
            Some(opened) if opened == probe => Ok(sealer),
            Some(_) | None => Err(AgentError::Encryption),
        }
    }

    /// Encrypts; `None` when the system gives no randomness.
    pub(super) fn seal(&self, plain: &[u8]) -> Option<String> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let unique = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(unique, Aad::empty(), &mut sealed).ok()?;
        let mut whole = nonce.to_vec();
        whole.extend(sealed);
        Some(URL_SAFE.encode_to_string(whole))
    }

    /// Decrypts what [`Sealer::seal`] made.
    fn open(&self, sealed: &str) -> Option<Vec<u8>> {
        let whole = URL_SAFE.decode_to_vec(sealed).ok()?;
        let (nonce, text) = whole.split_first_chunk::<NONCE_LEN>()?;
        let mut text = text.to_vec();
        let unique = Nonce::assume_unique_for_key(*nonce);
        Some(self.key.open_in_place(unique, Aad::empty(), &mut text).ok()?.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_32_bytes_in_url_safe_base64() {
        let key = URL_SAFE.encode_to_string([0xfb; 32]);
        assert!(key.ends_with('=') && key.contains('-'));
        for (key, is_good) in [
            (key.as_str(), true),
            (key.trim_end_matches('='), true),
            ("", false),
            ("short", false),
            ("not base64!", false),
            (&URL_SAFE.encode_to_string([0; 31]), false),
            (&URL_SAFE.encode_to_string([0; 33]), false),
        ] {
            assert_eq!(Sealer::new(key).is_ok(), is_good, "{key}");
        }
    }

    #[test]
    fn what_is_sealed_differs_each_time_and_opens_again() {
        let sealer = Sealer::new(&URL_SAFE.encode_to_string([7; 32])).unwrap();
        let (one, other) = (sealer.seal(b"{}").unwrap(), sealer.seal(b"{}").unwrap());
        assert_ne!(one, other);
        assert_eq!(sealer.open(&one).as_deref(), Some(&b"{}"[..]));
        let mut bytes = URL_SAFE.decode_to_vec(&one).unwrap();
        assert_eq!(bytes.len(), NONCE_LEN + 2 + 16);
        *bytes.last_mut().unwrap() ^= 1;
        assert_eq!(sealer.open(&URL_SAFE.encode_to_string(bytes)), None, "a changed tag does not open");
    }
}
