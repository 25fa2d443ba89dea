//! Getting one file from where it is: a path or a URL, unless it is the one that is known already.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::values::Secret;
use crate::feeds::read;
use crate::net::client::{Client, Request, Validators, shown};

/// Where a feed comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Location {
    /// A file of this machine.
    File(PathBuf),
    /// `http://` or `https://`.
    Url(String),
}

impl Location {
    /// The location that a setting names.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.strip_prefix("file://") {
            Some(path) => Self::File(path.into()),
            None if text.starts_with("http://") || text.starts_with("https://") => Self::Url(text.to_owned()),
            None => Self::File(text.into()),
        }
    }

    /// The location as it may be shown: of a URL neither query nor fragment.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Url(url) => shown(url),
        }
    }
}

/// What tells one version of a file from the next.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Known {
    /// Tags of a server.
    pub(super) validators: Validators,
    /// The state of a local file.
    pub(super) stamp: Option<Stamp>,
    /// Where a page pointed.
    pub(super) link: Option<String>,
}

/// The state of a local file; a file that is replaced has another one even when its times are equal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Stamp {
    inode: u64,
    bytes: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl From<&Metadata> for Stamp {
    fn from(found: &Metadata) -> Self {
        Self { inode: found.ino(), bytes: found.len(), seconds: found.mtime(), nanoseconds: found.mtime_nsec() }
    }
}

/// Bounds of one fetch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) timeout: Duration,
    pub(super) bytes_max: usize,
    pub(super) redirects_max: u8,
}

/// What was found.
#[derive(Debug)]
pub(super) enum Found {
    /// What is known already.
    Same,
    /// Something else, and what it will be known by once it is taken.
    New(Vec<u8>, Known),
}

/// Gets the file at `location`.
///
/// # Errors
/// A message for people, which names the location and no secret.
pub(super) async fn fetch(
    client: Option<&Client>,
    location: &Location,
    token: Option<&Secret>,
    (known, bounds): (&Known, Bounds),
) -> Result<Found, String> {
    match location {
        Location::File(path) => {
            let (path, stamp) = (path.clone(), known.stamp);
            let reading = tokio::task::spawn_blocking(move || file(&path, stamp));
            reading.await.map_err(|error| error.to_string())?
        }
        Location::Url(url) => {
            let client = client.ok_or("there is no HTTP client")?;
            let bearer = token.map(|token| format!("Bearer {}", token.expose()));
            let headers: Vec<(&str, &str)> = bearer.iter().map(|value| ("authorization", value.as_str())).collect();
            let request = Request {
                headers: &headers,
                known: Some(&known.validators),
                timeout: bounds.timeout,
                body_bytes_max: bounds.bytes_max,
                redirects_max: bounds.redirects_max,
                ..Request::get(url)
            };
            let problem = |error| format!("{}: {error}", shown(url));
            let answer = client.send(&request).await.and_then(|answer| answer.success()).map_err(problem)?;
            if answer.is_not_modified() {
                return Ok(Found::Same);
            }
            let known = Known { validators: answer.validators(), ..Known::default() };
            Ok(Found::New(answer.body, known))
        }
    }
}

fn file(path: &Path, known: Option<Stamp>) -> Result<Found, String> {
    let stamp = stamp(path)?;
    if known == Some(stamp) {
        return Ok(Found::Same);
    }
    // A file that changes while it is read has another stamp next time, and is read again.
    let bytes = read(path)?;
    Ok(Found::New(bytes, Known { stamp: Some(stamp), ..Known::default() }))
}

fn stamp(path: &Path) -> Result<Stamp, String> {
    std::fs::metadata(path).map(|found| Stamp::from(&found)).map_err(|error| format!("{}: {error}", path.display()))
}
