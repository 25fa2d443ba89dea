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

use crate::config::server::ListenersConfig;
use crate::server::tls::Tls;
use crate::server::worker::{Accepted, Socket, Worker};

/// Pause after accepting failed for want of file descriptors, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The TCP address of a setting.
    #[error("{0}: cannot listen on {1}: {2}")]
    Tcp(&'static str, SocketAddr, #[source] io::Error),
    /// The socket file of a setting.
    #[error("{0}: cannot listen on {1}: {2}")]
    Unix(&'static str, PathBuf, #[source] io::Error),
    /// The mode beside it is no octal number.
    #[error("{0}_mode: `{1}` is no file mode in octal")]
    Mode(&'static str, String),
}

/// The open listeners. Bound before anything else starts, so that a taken address is an error at start.
#[derive(Debug)]
pub struct Listeners {
    tcp: Option<TcpListener>,
    unix: Option<UnixDoor>,
    tls: Arc<Tls>,
}

/// A Unix listener and its file.
#[derive(Debug)]
pub(in crate::server) struct UnixDoor {
    listener: UnixListener,
    _file: SocketFile,
}

impl UnixDoor {
    /// Opens the socket that the setting `key` names, with the mode of the setting beside it.
    pub(in crate::server) fn open(key: &'static str, path: &Path, mode: &str) -> Result<Self, ListenError> {
        let bits = u32::from_str_radix(mode, 8).map_err(|_| ListenError::Mode(key, mode.to_owned()))?;
        let opened = open_unix(path, bits).map_err(|error| ListenError::Unix(key, path.to_owned(), error))?;
        Ok(Self { listener: opened.0, _file: opened.1 })
    }

    /// The next connection.
    pub(in crate::server) async fn accept(&self) -> io::Result<tokio::net::UnixStream> {
        self.listener.accept().await.map(|(socket, _)| socket)
    }
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
    /// Opens what the configuration asks for; connections over TCP do the handshake of `tls`. Must run inside a runtime.
    pub async fn open(config: &ListenersConfig, tls: Arc<Tls>) -> Result<Self, ListenError> {
        let tcp = open_tcp("listeners.grpc", config.grpc).await?;
        let unix = config.unix.as_ref().map(|path| UnixDoor::open("listeners.unix", path, &config.unix_mode));
        Ok(Self { tcp, unix: unix.transpose()?, tls })
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
                socket = accept_tcp(self.tcp.as_ref(), &self.tls) => socket,
                socket = accept_unix(self.unix.as_ref()) => socket,
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

/// Binds the address of the setting `key`, if there is one.
pub(in crate::server) async fn open_tcp(
    key: &'static str,
    address: Option<SocketAddr>,
) -> Result<Option<TcpListener>, ListenError> {
    let Some(address) = address else { return Ok(None) };
    TcpListener::bind(address).await.map(Some).map_err(|error| ListenError::Tcp(key, address, error))
}

async fn accept_tcp(listener: Option<&TcpListener>, tls: &Arc<Tls>) -> io::Result<Socket> {
    let Some(listener) = listener else { return std::future::pending().await };
    let (socket, _) = listener.accept().await?;
    // Answers are small and awaited: they must not wait for more data.
    socket.set_nodelay(true)?;
    Ok(Socket::Tcp(socket.into_std()?, Arc::clone(tls)))
}

async fn accept_unix(door: Option<&UnixDoor>) -> io::Result<Socket> {
    let Some(door) = door else { return std::future::pending().await };
    door.accept().await?.into_std().map(Socket::Unix)
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
