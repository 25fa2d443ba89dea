//! Listeners: binding, accepting, and handing each connection to the least loaded worker.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};

use crate::server::worker::{Accepted, Socket, Worker};

/// Pause after accepting failed for want of file descriptors, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The TCP address.
    #[error("listeners.grpc: cannot listen on {0}: {1}")]
    Tcp(SocketAddr, #[source] io::Error),
    /// The socket file.
    #[error("listeners.unix: cannot listen on {0}: {1}")]
    Unix(PathBuf, #[source] io::Error),
    /// The mode is no octal number.
    #[error("listeners.unix_mode: `{0}` is no file mode in octal")]
    Mode(String),
}

/// The open listeners. Bound before anything else starts, so that a taken address is an error at start.
#[derive(Debug)]
pub struct Listeners {
    tcp: Option<TcpListener>,
    unix: Option<(UnixListener, SocketFile)>,
}

/// A socket file, removed with its listener.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already; nothing is left to do then.
        drop(fs::remove_file(&self.0));
    }
}

impl Listeners {
    /// Opens what the configuration asks for. Must run inside a runtime.
    pub async fn open(config: &crate::config::server::ListenersConfig) -> Result<Self, ListenError> {
        let tcp = match config.grpc {
            Some(address) => Some(TcpListener::bind(address).await.map_err(|error| ListenError::Tcp(address, error))?),
            None => None,
        };
        let unix = match &config.unix {
            Some(path) => {
                let mode = u32::from_str_radix(&config.unix_mode, 8)
                    .map_err(|_| ListenError::Mode(config.unix_mode.clone()))?;
                Some(open_unix(path, mode).map_err(|error| ListenError::Unix(path.clone(), error))?)
            }
            None => None,
        };
        Ok(Self { tcp, unix })
    }

    /// The TCP address that was bound; tells the port when the configuration asked for port 0.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Accepts until `stop` says so, then closes the listeners.
    pub async fn accept(self, workers: &[Worker], connections_max: usize, mut stop: watch::Receiver<bool>) {
        let permits = Arc::new(Semaphore::new(connections_max));
        loop {
            // A place first: beyond the limit, connections wait in the kernel's queue.
            let permit = tokio::select! {
                permit = Arc::clone(&permits).acquire_owned() => permit,
                _ = stop.wait_for(|stopped| *stopped) => return,
            };
            let Ok(permit) = permit else { return };
            let socket = tokio::select! {
                socket = accept_tcp(self.tcp.as_ref()) => socket,
                socket = accept_unix(self.unix.as_ref().map(|(listener, _)| listener)) => socket,
                _ = stop.wait_for(|stopped| *stopped) => return,
            };
            match socket {
                Ok(socket) => {
                    if let Some(worker) = workers.iter().min_by_key(|worker| worker.connections()) {
                        worker.hand_over(Accepted { socket, permit }).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn accept_tcp(listener: Option<&TcpListener>) -> io::Result<Socket> {
    let Some(listener) = listener else { return std::future::pending().await };
    let (socket, _) = listener.accept().await?;
    // Answers are small and awaited: they must not wait for more data.
    socket.set_nodelay(true)?;
    socket.into_std().map(Socket::Tcp)
}

async fn accept_unix(listener: Option<&UnixListener>) -> io::Result<Socket> {
    let Some(listener) = listener else { return std::future::pending().await };
    let (socket, _) = listener.accept().await?;
    socket.into_std().map(Socket::Unix)
}

/// Binds a socket file. One that a dead process left behind is replaced; one that answers, or a file of another kind,
/// is an error.
fn open_unix(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path is taken by something else"));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process is listening there"));
        }
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    let file = SocketFile(path.to_owned());
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok((listener, file))
}
