//! A bounded way to a slow sink: whoever writes never waits, and what does not fit is dropped and counted.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// How long a stopping process waits for its last lines.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// The writing end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Queue {
    sender: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
    reopens: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Item {
    Line(Box<[u8]>),
    Flush(SyncSender<()>),
}

/// A file that lines are appended to, and that may be moved away: when it is told to, it opens its path again.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: BufWriter<File>,
    reopens: Arc<AtomicBool>,
}

impl LogFile {
    /// Opens a log file for appending; folders on the way are made.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file), reopens: Arc::default() })
    }

    /// What lies at the path now; when that cannot be opened, lines go on to where they went.
    fn follow(&mut self) {
        if self.reopens.swap(false, Ordering::Relaxed)
            && let Ok(next) = Self::open(&self.path)
        {
            // What is still buffered belongs to the old file; it cannot be reported that it is lost.
            self.file.flush().unwrap_or_default();
            self.file = next.file;
        }
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.follow();
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.follow();
        self.file.flush()
    }
}

impl Queue {
    /// A queue of `capacity` lines into `sinks`, emptied by a thread of its own. A sink that fails loses its lines and
    /// is tried again with the next one.
    pub fn new(capacity: usize, sinks: Vec<Box<dyn Write + Send>>) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(capacity.max(1));
        std::thread::Builder::new().name("log".to_owned()).spawn(move || drain(&receiver, sinks))?;
        Ok(Self { sender, dropped: Arc::default(), reopens: Arc::default() })
    }

    /// A queue into the standard output and a file that [`Queue::reopen`] opens again.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn into_file(capacity: usize, file: Option<LogFile>) -> io::Result<Self> {
        let reopens = file.as_ref().map(|file| Arc::clone(&file.reopens)).unwrap_or_default();
        Ok(Self { reopens, ..Self::new(capacity, sinks(file))? })
    }

    /// Lets lines go to what lies at the file's path now: whoever rotates it has moved the old one away.
    pub fn reopen(&self) {
        self.reopens.store(true, Ordering::Relaxed);
        // The next line would do it, too; with a full queue it does.
        let (done, _) = sync_channel(1);
        if self.sender.try_send(Item::Flush(done)).is_err() {
            tracing::debug!("the log is busy and follows its file with the next line");
        }
    }

    /// Lines that found no place.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything written so far has reached the sinks, or `FLUSH_MAX` has passed.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.sender.send(Item::Flush(done)).is_ok() {
            match wait.recv_timeout(FLUSH_MAX) {
                Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }
}

fn drain(items: &Receiver<Item>, mut sinks: Vec<Box<dyn Write + Send>>) {
    while let Ok(first) = items.recv() {
        let mut next = Ok(first);
        // What is waiting already goes out together.
        loop {
            match next {
                Ok(Item::Line(line)) => each(&mut sinks, |sink| sink.write_all(&line)),
                Ok(Item::Flush(done)) => {
                    each(&mut sinks, |sink| sink.flush());
                    done.try_send(()).unwrap_or_default();
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
            next = items.try_recv();
        }
        each(&mut sinks, |sink| sink.flush());
    }
}

/// There is nowhere to report that the log cannot be written.
fn each(sinks: &mut [Box<dyn Write + Send>], write: impl Fn(&mut dyn Write) -> io::Result<()>) {
    for sink in sinks {
        write(sink.as_mut()).unwrap_or_default();
    }
}

/// Standard output, buffered, and the file when there is one.
#[must_use]
pub fn sinks(file: Option<LogFile>) -> Vec<Box<dyn Write + Send>> {
    let stdout: Box<dyn Write + Send> = Box::new(BufWriter::new(io::stdout()));
    let file = file.map(|file| Box::new(file) as Box<dyn Write + Send>);
    std::iter::once(stdout).chain(file).collect()
}

impl<'q> MakeWriter<'q> for Queue {
    type Writer = Line<'q>;

    fn make_writer(&'q self) -> Line<'q> {
        Line(self)
    }
}

/// One line: the subscriber formats it whole and writes it at once.
#[derive(Debug)]
pub struct Line<'q>(&'q Queue);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.sender.try_send(Item::Line(line.into())).is_err() {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;

    /// A sink that stands still until it is opened.
    #[derive(Clone, Default)]
    struct Gate(Arc<(Mutex<Sink>, Condvar)>);

    /// Whether it is open, and what it took.
    type Sink = (bool, Vec<u8>);

    impl Gate {
        fn open(&self) {
            self.0.0.lock().unwrap().0 = true;
            self.0.1.notify_all();
        }
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let guard = self.0.0.lock().unwrap();
            let mut guard = self.0.1.wait_while(guard, |(open, _)| !*open).unwrap();
            guard.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("logs/guard.log"), folder.path().join("guard.log.1"));
        let file = LogFile::open(&path).unwrap();
        let reopens = Arc::clone(&file.reopens);
        let queue = Queue { reopens, ..Queue::new(8, vec![Box::new(file)]).unwrap() };
        let write = |line: &[u8]| {
            queue.make_writer().write_all(line).unwrap();
            queue.flush();
        };
        write(b"one\n");
        std::fs::rename(&path, &moved).unwrap();
        write(b"two\n");
        queue.reopen();
        write(b"three\n");
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn a_slow_sink_costs_lines_and_no_time() {
        let gate = Gate::default();
        let queue = Queue::new(8, vec![Box::new(gate.clone())]).unwrap();
        for number in 0..100 {
            queue.make_writer().write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        // The thread holds one line at most; eight wait.
        let dropped = queue.dropped();
        assert!(dropped == 91 || dropped == 92, "{dropped}");
        gate.open();
        queue.flush();
        let written = String::from_utf8(gate.0.0.lock().unwrap().1.clone()).unwrap();
        assert!(written.starts_with("0\n1\n2\n"), "{written}");
        assert_eq!(written.lines().count() as u64, 100 - dropped);
        queue.make_writer().write_all(b"later\n").unwrap();
        queue.flush();
        assert_eq!(queue.dropped(), dropped, "there is room again");
    }
}
