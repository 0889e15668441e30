//! Accepts connections, and no more of them than are allowed and the system has descriptors for.
//!
//! One too many is accepted and closed at once: its client learns at once that it must go elsewhere
//! or come back, and what is open goes on. Who connects and says nothing is let go, so that silence
//! doesn't keep a place.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures::{Stream, stream};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Descriptors for everything that isn't a connection: the log, the store, the second port.
const OTHERS: u64 = 256;
/// Bytes that are gathered before they are given to the system.
const GATHERED: usize = 32 * 1024;
/// Bytes with which HTTP/2 begins; hardly a request of HTTP/1 is shorter.
const PREFACE: usize = 24;
/// How long a new connection may take for that.
const FIRST_BYTE: Duration = Duration::from_secs(20);
/// How long accepting pauses when the system has nothing left to accept with.
const PAUSE: Duration = Duration::from_millis(50);
/// How often refusing is told.
const TELL: Duration = Duration::from_secs(10);

/// Asks the system for the descriptors of so many connections; how many there is room for.
pub(super) fn room_for(connections: usize) -> usize {
    let wanted = (connections as u64).saturating_add(OTHERS);
    let limit = getrlimit(Resource::Nofile);
    let mut current = limit.current.unwrap_or(u64::MAX);
    let maximum = limit.maximum.unwrap_or(u64::MAX);
    if current < wanted {
        let raised = wanted.min(maximum);
        if setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum }).is_ok() {
            current = raised;
        }
    }
    if current >= wanted {
        return connections;
    }
    // Half of a very small number, so that data can still be opened.
    let room = current.saturating_sub(OTHERS).max(current / 2).max(1);
    tracing::warn!(
        connections = room,
        wanted = connections,
        descriptors = current,
        "the system gives too few descriptors for `limits.connections`: raise the hard limit of open files"
    );
    usize::try_from(room).unwrap_or(usize::MAX)
}

/// Connections as they come, at most so many at once.
pub(super) fn accept(listener: TcpListener, at_most: usize) -> impl Stream<Item = io::Result<Connection>> {
    let places = Arc::new(Semaphore::new(at_most.min(Semaphore::MAX_PERMITS)));
    let told: Option<Instant> = None;
    stream::unfold((listener, places, told), move |(listener, places, mut told)| async move {
        loop {
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tell(&mut told, || tracing::warn!(%error, "a connection can't be accepted"));
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                tell(&mut told, || tracing::warn!(at_most, %address, "too many connections: closing new ones"));
                drop(stream);
                continue;
            };
            // A connection that can't be set up is one that is gone.
            let _ = stream.set_nodelay(true);
            let silence = Some(Box::pin(tokio::time::sleep(FIRST_BYTE)));
            return Some((
                Ok(Connection {
                    stream,
                    silence,
                    received: 0,
                    gathered: Vec::new(),
                    sent: 0,
                    waited: false,
                    _place: place,
                }),
                (listener, places, told),
            ));
        }
    })
}

fn tell(told: &mut Option<Instant>, say: impl FnOnce()) {
    if told.is_none_or(|told| told.elapsed() >= TELL) {
        *told = Some(Instant::now());
        say();
    }
}

/// A connection, and its place.
pub(super) struct Connection {
    stream: TcpStream,
    /// Until a beginning has come: fewer bytes than that can't be told from the half of one.
    silence: Option<Pin<Box<Sleep>>>,
    received: usize,
    /// Written, and not given to the system yet, from `sent` on.
    gathered: Vec<u8>,
    sent: usize,
    /// Others had a turn since the first of it came.
    waited: bool,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            Poll::Ready(read) => {
                if this.silence.is_some() {
                    this.received += buffer.filled().len() - before;
                    if this.received >= PREFACE {
                        this.silence = None;
                    }
                }
                Poll::Ready(read)
            }
            Poll::Pending => match &mut this.silence {
                Some(silence) => silence.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
                None => Poll::Pending,
            },
        }
    }
}

/// Writes are gathered, and go when whoever else is ready to write had its turn: a post to a hundred
/// streams of a connection is one system call instead of a hundred.
impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.gathered.len() >= GATHERED {
            ready!(this.poll_send(cx))?;
        }
        let mut taken = 0;
        for bytes in slices {
            let room = (2 * GATHERED).saturating_sub(this.gathered.len()).min(bytes.len());
            this.gathered.extend_from_slice(&bytes[..room]);
            taken += room;
            if room < bytes.len() {
                break;
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.gathered.is_empty() && !this.waited {
            this.waited = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

impl Connection {
    /// Gives the system everything that was gathered.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.gathered.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        // An idle connection keeps no buffer.
        (self.gathered, self.sent, self.waited) = (Vec::new(), 0, false);
        Poll::Ready(Ok(()))
    }
}
