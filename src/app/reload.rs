//! Files that change while the service runs: those that the configuration names, and the configuration itself.
//!
//! The system says that something happened in a folder; whether a file is another one is told by its metadata. So an
//! editor that renames, a mount whose links are exchanged and a file that is written in place all look the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use crate::app::keeper::{Change, Mailbox};
use crate::config::Config;
use crate::config::tls::ServerTls;
use crate::live::Live;

/// Silence after an event before the files are looked at, and how long a noisy folder can put that off.
const QUIET: Duration = Duration::from_millis(200);
const QUIET_MAX: Duration = Duration::from_secs(2);
/// The files are looked at this often whatever the system says: some file systems tell nothing.
const GLANCE: Duration = Duration::from_secs(10);
/// Entries of a folder that are looked at.
const ENTRIES_MAX: usize = 1024;

/// What a change of a file calls for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Part {
    Config,
    Credentials,
}

/// What one file, or the files of one folder, look like: where they really are, how long, since when.
type Print = Vec<(PathBuf, u64, u64, i64, i64)>;

/// The files, and what they look like.
type Prints = BTreeMap<(Part, PathBuf), Print>;

/// Brings a change to the mailbox whenever a file became another one. Never returns; run one beside the service.
pub(in crate::app) async fn follow(file: Option<PathBuf>, live: Arc<Live>, mailbox: Mailbox) {
    let (sender, mut events) = mpsc::channel(1);
    let mut eyes = Eyes::new(sender);
    let mut seen: Option<Prints> = None;
    loop {
        let (file, config) = (file.clone(), Arc::clone(&live.snapshot().config));
        let Ok(now) = tokio::task::spawn_blocking(move || look(file.as_deref(), &config)).await else { return };
        eyes.turn_to(&now);
        let changed = seen.as_ref().map(|seen| difference(seen, &now)).unwrap_or_default();
        seen = Some(now);
        if !changed.is_empty() {
            bring(&mailbox, &changed).await;
            continue;
        }
        tokio::select! {
            Some(()) = events.recv() => settle(&mut events).await,
            () = tokio::time::sleep(GLANCE) => {}
        }
    }
}

/// The keeper says how it went.
async fn bring(mailbox: &Mailbox, changed: &BTreeSet<Part>) {
    let is_loaded = changed.contains(&Part::Config) && mailbox.change(Change::Config).await.is_ok();
    // A configuration that cannot be used must not keep a new certificate out.
    if changed.contains(&Part::Credentials) && !is_loaded {
        drop(mailbox.change(Change::Credentials).await);
    }
}

/// Waits until nothing has happened for a while: files are seldom written at once.
async fn settle(events: &mut mpsc::Receiver<()>) {
    let quiet = async { while tokio::time::timeout(QUIET, events.recv()).await.is_ok_and(|event| event.is_some()) {} };
    // Looking in between does no harm.
    tokio::time::timeout(QUIET_MAX, quiet).await.unwrap_or_default();
}

/// Which parts have files that are others than before. A file that was not looked at before is none.
fn difference(seen: &Prints, now: &Prints) -> BTreeSet<Part> {
    let other = now.iter().filter(|(key, print)| seen.get(key).is_some_and(|known| known != *print));
    other.map(|((part, _), _)| *part).collect()
}

fn look(file: Option<&Path>, config: &Config) -> Prints {
    let named = file.map(|file| (Part::Config, file.to_owned())).into_iter();
    let named = named.chain(policy_files(config).map(|path| (Part::Config, path)));
    let named = named.chain(credential_files(config).map(|path| (Part::Credentials, path)));
    named.map(|(part, path)| ((part, path.clone()), print(&path))).collect()
}

/// What a snapshot is compiled from.
fn policy_files(config: &Config) -> impl Iterator<Item = PathBuf> {
    let one = [&config.detection.patterns_dir, &config.security.geo_ip_handler, &config.data.cloud_ranges];
    one.into_iter().flatten().cloned().chain(crate::feeds::credential_files(config))
}

/// What our listeners go by.
fn credential_files(config: &Config) -> impl Iterator<Item = PathBuf> {
    let of = |tls: &ServerTls| {
        [Some(tls.cert_file.clone()), Some(tls.key_file.clone()), tls.client_ca_file.clone()].into_iter().flatten()
    };
    let tls = [&config.listeners.tls, &config.admin.tls].into_iter().flatten().flat_map(of);
    tls.chain(config.admin.token_file.clone())
}

/// What a file looks like, or the files of a folder; nothing when it is not there.
fn print(path: &Path) -> Print {
    let one = |path: &Path| {
        let (real, data) = (fs::canonicalize(path).ok()?, fs::metadata(path).ok()?);
        Some((real, data.ino(), data.len(), data.mtime(), data.mtime_nsec()))
    };
    let Ok(entries) = fs::read_dir(path) else { return one(path).into_iter().collect() };
    let mut print: Print = entries
        .take(ENTRIES_MAX)
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .filter_map(|path| one(&path))
        .collect();
    print.sort();
    print
}

/// The folders that the system watches for us.
struct Eyes {
    watcher: Option<RecommendedWatcher>,
    on: BTreeSet<PathBuf>,
}

impl Eyes {
    fn new(sender: mpsc::Sender<()>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file changes nothing. One event that waits stands for all that follow.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                sender.try_send(()).unwrap_or_default();
            }
        });
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!(%error, "files cannot be watched; they are looked at every {GLANCE:?}");
        });
        Self { watcher: watcher.ok(), on: BTreeSet::new() }
    }

    /// Watches the folders of these files, and no others.
    fn turn_to(&mut self, prints: &Prints) {
        let Some(watcher) = &mut self.watcher else { return };
        let mut wanted = BTreeSet::new();
        for ((_, path), print) in prints {
            wanted.extend(folder(path));
            if path.is_dir() {
                wanted.insert(path.clone());
            }
            // Behind a link the file may be written in place.
            wanted.extend(print.iter().filter_map(|(real, ..)| folder(real)));
        }
        for gone in self.on.difference(&wanted) {
            // It may have been removed.
            watcher.unwatch(gone).unwrap_or_default();
        }
        let mut on: BTreeSet<PathBuf> = self.on.intersection(&wanted).cloned().collect();
        for new in wanted.difference(&self.on) {
            // One that cannot be watched is tried again with the next look.
            if watcher.watch(new, RecursiveMode::NonRecursive).is_ok() {
                on.insert(new.clone());
            }
        }
        self.on = on;
    }
}

fn folder(path: &Path) -> Option<PathBuf> {
    let folder = path.parent()?;
    Some(if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(folder: &Path) -> Config {
        let mut config = Config::default();
        config.detection.patterns_dir = Some(folder.join("patterns"));
        config.admin.token_file = Some(folder.join("token"));
        config
    }

    #[test]
    fn every_way_to_exchange_a_file_is_seen_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| fs::write(at(name), text).unwrap();
        fs::create_dir(at("patterns")).unwrap();
        for name in ["real-1", "real-2"] {
            fs::create_dir(at(name)).unwrap();
            write(&format!("{name}/guard.yaml"), "x: 1\n");
        }
        std::os::unix::fs::symlink("real-1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/guard.yaml", at("guard.yaml")).unwrap();
        write("token", "0123456789abcdef");
        let (file, config) = (at("guard.yaml"), config(folder.path()));
        let mut seen = look(Some(&file), &config);
        let mut changed = || {
            let now = look(Some(&file), &config);
            let changed: Vec<Part> = difference(&seen, &now).into_iter().collect();
            seen = now;
            changed
        };
        assert_eq!(changed(), []);
        std::os::unix::fs::symlink("real-2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!(changed(), [Part::Config], "a mount exchanges its links");
        write("token.part", "0123456789abcdeg");
        fs::rename(at("token.part"), at("token")).unwrap();
        assert_eq!(changed(), [Part::Credentials], "an editor renames");
        write("patterns/more.yaml", "[]");
        assert_eq!(changed(), [Part::Config], "a file is added to a folder");
        fs::remove_file(at("token")).unwrap();
        write("patterns/more.yaml", "[ ]");
        assert_eq!(changed(), [Part::Config, Part::Credentials], "a file goes, another is written in place");
        write("unrelated", "x");
        assert_eq!(changed(), []);
    }
}
