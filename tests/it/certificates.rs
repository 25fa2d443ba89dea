//! Authorities and certificates for tests that need files.

use std::path::{Path, PathBuf};

use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use tempfile::TempDir;

/// An authority, and a folder with what it issued.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Its own certificate lies in `ca.pem`.
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        std::fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    /// The text of a certificate with this DNS name (or URI) that ends with the year `until`, and of its key.
    pub(crate) fn issue(&self, name: &str, until: i32) -> (String, String) {
        let text = Ia5String::try_from(name).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![if name.contains("://") { SanType::URI(text) } else { SanType::DnsName(text) }];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Writes a certificate and its key as `FILE.crt` and `FILE.key`, each by renaming.
    pub(crate) fn write(&self, file: &str, name: &str, until: i32) {
        let (certificate, key) = self.issue(name, until);
        for (ending, text) in [("crt", certificate), ("key", key)] {
            let part = self.path(&format!("{file}.{ending}.part"));
            std::fs::write(&part, text).unwrap();
            std::fs::rename(part, self.path(&format!("{file}.{ending}"))).unwrap();
        }
    }

    /// Where a file of the folder lies.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}
