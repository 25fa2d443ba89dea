//! The folder that keeps compiled patterns between runs. What lies in it is Hyperscan's own memory image, so a file is
//! read only where nobody but this user, or root, can have written it. Nothing here ever fails a start.

use std::cmp::Reverse;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock;
use crate::config::Config;
use crate::config::exclusions::DatabaseCache as Setting;
use crate::detect::cache::DatabaseCache;

/// Largest file that is read or kept, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Files kept; those used longest ago go first. One profile takes three.
const FILES_MAX: usize = 32;
/// Bytes kept in all.
const TOTAL_BYTES_MAX: u64 = 256 << 20;
/// What a kept database's name ends with.
const SUFFIX: &str = ".hsdb";
/// What a half-written one's name ends with.
const TEMPORARY: &str = ".tmp";
/// Age at which a half-written file is nobody's any more.
const TEMPORARY_AGE: Duration = Duration::from_secs(3600);
/// Bits of a mode that let others write.
const OTHERS_WRITE: u32 = 0o022;
/// Root, who may write everywhere anyway.
const ROOT: u32 = 0;

/// What the process says about folders for caches.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    /// `CACHE_DIRECTORY`: systemd's.
    cache_directory: Option<OsString>,
    /// `XDG_CACHE_HOME`.
    cache_home: Option<OsString>,
    /// `HOME`.
    home: Option<OsString>,
}

impl Environment {
    /// Of this process.
    pub(super) fn of_process() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| Path::new(value).is_absolute());
        Self {
            cache_directory: variable("CACHE_DIRECTORY"),
            cache_home: variable("XDG_CACHE_HOME"),
            home: variable("HOME"),
        }
    }

    /// Folders to try, best first.
    fn folders(&self) -> Vec<PathBuf> {
        let own = |folder: &OsString| Path::new(folder).join("envoy-guard");
        let user = self.cache_home.as_ref().map(own);
        let user = user.or_else(|| self.home.as_ref().map(|home| Path::new(home).join(".cache/envoy-guard")));
        let system = PathBuf::from("/var/cache/envoy-guard");
        self.cache_directory.as_ref().map(PathBuf::from).into_iter().chain(user).chain([system]).collect()
    }
}

/// The folder, if there is one that can be used.
#[derive(Debug)]
pub(super) struct Databases {
    folder: Option<PathBuf>,
    user: u32,
    remarks: Mutex<Vec<String>>,
}

impl Databases {
    /// The folder that the configuration names, or one that fits. A folder that was asked for and cannot be used is
    /// worth a remark; having none is not.
    pub(super) fn open(config: &Config, environment: &Environment) -> Self {
        let (folders, is_asked_for) = match (&config.detection.database_cache, named_by_guard_core(config)) {
            (Setting::Off, _) => (Vec::new(), false),
            (Setting::Folder(folder), _) | (Setting::Auto, Some(folder)) => (vec![folder.clone()], true),
            (Setting::Auto, None) => (environment.folders(), false),
        };
        // The owner of `/proc/self` is the user this process acts as.
        let user = fs::metadata("/proc/self").map(|own| own.uid());
        let mut databases =
            Self { folder: None, user: user.as_ref().copied().unwrap_or(ROOT), remarks: Mutex::default() };
        let Ok(user) = user else { return databases };
        for folder in folders {
            match prepare(&folder, user) {
                Ok(()) => {
                    databases.folder = Some(folder);
                    return databases;
                }
                Err(error) if is_asked_for => {
                    databases.remark(format!("compiled patterns cannot be kept in {}: {error}", folder.display()));
                }
                Err(_) => {}
            }
        }
        databases
    }

    /// What the user should know.
    pub(super) fn remarks(&self) -> Vec<String> {
        self.remarks.lock().map(|remarks| remarks.clone()).unwrap_or_default()
    }

    fn remark(&self, remark: String) {
        if let Ok(mut remarks) = self.remarks.lock() {
            remarks.push(format!("detection.database_cache: {remark}"));
        }
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(format!("{name}{SUFFIX}")))
    }
}

/// guard-core's own field for such a folder.
fn named_by_guard_core(config: &Config) -> Option<&PathBuf> {
    config.security.detection_pattern_validation_cache_path.as_ref()
}

impl DatabaseCache for Databases {
    fn read(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.path(name)?;
        let file = File::open(&path).ok()?;
        let about = file.metadata().ok()?;
        if let Err(error) = trust(&about, self.user) {
            self.remark(format!("{} is not used: {error}", path.display()));
            return None;
        }
        if !about.is_file() || FILE_BYTES_MAX < about.len() {
            self.remark(format!("{} is not used: it is no file of at most {FILE_BYTES_MAX} bytes", path.display()));
            return None;
        }
        let mut bytes = Vec::new();
        (&file).take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        // The time says when it was used last; a folder that only root may write keeps its own.
        drop(file.set_modified(UNIX_EPOCH + Duration::from_secs_f64(clock::now().0.max(0.0))));
        Some(bytes)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let (Some(path), Some(folder)) = (self.path(name), &self.folder) else { return };
        if FILE_BYTES_MAX < bytes.len() as u64 {
            return;
        }
        if let Err(error) = replace(&path, bytes).and_then(|()| prune(folder, &path)) {
            self.remark(format!("compiled patterns cannot be kept in {}: {error}", folder.display()));
        }
    }

    fn reject(&self, name: &str, why: &str) {
        if let Some(path) = self.path(name) {
            self.remark(format!("{} {why}; it is built anew", path.display()));
        }
    }
}

/// Makes the folder if it is absent, and looks at who may write to it.
fn prepare(folder: &Path, user: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    trust(&fs::metadata(folder)?, user)
}

/// Only the own user and root may have written it.
fn trust(about: &Metadata, user: u32) -> io::Result<()> {
    if about.uid() != user && about.uid() != ROOT {
        return Err(io::Error::other(format!("it belongs to user {}", about.uid())));
    }
    if about.mode() & OTHERS_WRITE != 0 {
        return Err(io::Error::other("others may write to it"));
    }
    Ok(())
}

/// Writes a file beside `path` and moves it there, so that nobody ever sees half of one.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_extension(format!("{}-{number}{TEMPORARY}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_data()))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        drop(fs::remove_file(&temporary));
    }
    written
}

/// Removes what is too much: files used longest ago, never `keep`, and what others left half-written.
fn prune(folder: &Path, keep: &Path) -> io::Result<()> {
    let now = UNIX_EPOCH + Duration::from_secs_f64(clock::now().0.max(0.0));
    let mut kept: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        // Another process may have removed it meanwhile.
        let Ok(about) = entry.metadata() else { continue };
        let modified = about.modified().unwrap_or(UNIX_EPOCH);
        if is_ours(&name, SUFFIX) {
            kept.push((modified, about.len(), path));
        } else if is_ours(&name, TEMPORARY) && now.duration_since(modified).is_ok_and(|age| TEMPORARY_AGE < age) {
            drop(fs::remove_file(path));
        }
    }
    kept.sort_by_key(|(modified, _, path)| Reverse((path == keep, *modified)));
    let mut total = 0;
    for (index, (_, bytes, path)) in kept.iter().enumerate() {
        total += bytes;
        if path != keep && (FILES_MAX <= index || TOTAL_BYTES_MAX < total) {
            drop(fs::remove_file(path));
        }
    }
    Ok(())
}

/// True for names that [`replace`] gives: 64 hexadecimal digits, and what follows.
fn is_ours(name: &str, suffix: &str) -> bool {
    name.ends_with(suffix) && 64 <= name.bytes().take_while(u8::is_ascii_hexdigit).count()
}

#[cfg(test)]
mod tests;
