//! The client of the push cells: one thread, many connections, nothing decoded but what is counted.
//!
//! # Layout
//!
//! * `http2` and `nats` turn bytes into deliveries and answers, and posts into bytes.
//! * `tally` knows what was sent and received, and when; `histogram` holds the times.

mod histogram;
pub(crate) mod http2;
pub(crate) mod nats;
pub(crate) mod tally;

use std::borrow::Cow;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

pub(crate) use self::histogram::Histogram;
use self::http2::{Http2, Kind};
use self::nats::Nats;
use self::tally::Tally;
use crate::interrupt;

const READ_BYTES: usize = 256 << 10;

/// All connections of a cell to one server, and what came over them.
pub(crate) struct Client {
    address: SocketAddr,
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
    pub(crate) tally: Tally,
}

struct Connection {
    stream: TcpStream,
    protocol: Protocol,
    out: Vec<u8>,
    /// What is written already.
    written: usize,
    /// It reads nothing.
    stalled: bool,
}

enum Protocol {
    Http2(Http2),
    Nats(Nats),
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Result<Self> {
        Ok(Self {
            address,
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            connections: Vec::new(),
            buffer: vec![0; READ_BYTES],
            tally: Tally::new(),
        })
    }

    /// Opens an HTTP/2 connection; its place.
    pub(crate) fn http2(&mut self) -> Result<usize> {
        let mut out = Vec::new();
        let http2 = Http2::new(&mut out);
        self.connect(Protocol::Http2(http2), out)
    }

    /// Opens a connection to nats that subscribes so many times; its place.
    pub(crate) fn nats(&mut self, subject: &str, times: usize) -> Result<usize> {
        let mut out = Vec::new();
        let nats = Nats::new(subject, times, &mut out);
        self.connect(Protocol::Nats(nats), out)
    }

    fn connect(&mut self, protocol: Protocol, out: Vec<u8>) -> Result<usize> {
        let stream = std::net::TcpStream::connect(self.address);
        let stream = stream.with_context(|| format!("connecting to {}", self.address))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        let place = self.connections.len();
        self.poll.registry().register(&mut stream, Token(place), Interest::READABLE | Interest::WRITABLE)?;
        self.connections.push(Connection { stream, protocol, out, written: 0, stalled: false });
        self.connections[place].flush()?;
        Ok(place)
    }

    /// From here on the connection reads nothing.
    pub(crate) fn stall(&mut self, connection: usize) {
        self.connections[connection].stalled = true;
    }

    /// Opens a stream on an HTTP/2 connection; sent with the next [`Self::flush`].
    pub(crate) fn call(&mut self, connection: usize, headers: &[u8], message: &[u8], kind: Kind) {
        let Connection { protocol, out, .. } = &mut self.connections[connection];
        if let Protocol::Http2(http2) = protocol {
            http2.call(headers, message, kind, out);
        }
    }

    /// Calls of an HTTP/2 connection that aren't answered.
    pub(crate) fn open(&self, connection: usize) -> usize {
        match &self.connections[connection].protocol {
            Protocol::Http2(http2) => http2.open(),
            Protocol::Nats(_) => 0,
        }
    }

    /// Publishes over a connection to nats; sent with the next [`Self::flush`].
    pub(crate) fn publish(&mut self, connection: usize, subject: &str, answer: Option<u32>, text: &[u8]) {
        Nats::publish(subject, answer, text, &mut self.connections[connection].out);
    }

    /// Sends what was asked for.
    pub(crate) fn flush(&mut self, connection: usize) -> Result<()> {
        self.connections[connection].flush()
    }

    /// Waits for something to come, at the longest for `limit`, and takes it.
    pub(crate) fn turn(&mut self, limit: Duration) -> Result<()> {
        interrupt::check()?;
        match self.poll.poll(&mut self.events, Some(limit)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        for event in &self.events {
            let connection = &mut self.connections[event.token().0];
            if event.is_writable() {
                connection.flush()?;
            }
            if event.is_readable() && !connection.stalled {
                connection.take(&mut self.buffer, &mut self.tally)?;
            }
        }
        match &self.tally.trouble {
            Some(trouble) => Err(anyhow!("{trouble}")),
            None => Ok(()),
        }
    }

    /// Takes what comes until `done`, at the longest for `limit`.
    pub(crate) fn until(&mut self, what: &str, limit: Duration, done: impl Fn(&Tally) -> bool) -> Result<()> {
        let begun = Instant::now();
        while !done(&self.tally) {
            if begun.elapsed() > limit {
                bail!(
                    "{what}: not after {limit:?}; {} streams, {} of {} posts are with everybody, {} refused",
                    self.tally.opened,
                    self.tally.complete,
                    self.tally.posts(),
                    self.tally.refused
                );
            }
            self.turn(Duration::from_millis(50))?;
        }
        Ok(())
    }

    /// Takes what comes for so long.
    pub(crate) fn idle(&mut self, time: Duration) -> Result<()> {
        let begun = Instant::now();
        while let Some(left) = time.checked_sub(begun.elapsed()) {
            self.turn(left.min(Duration::from_millis(50)))?;
        }
        Ok(())
    }
}

impl Connection {
    fn flush(&mut self) -> Result<()> {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("writing to the server"),
            }
        }
        self.written = 0;
        self.out.clear();
        Ok(())
    }

    fn take(&mut self, buffer: &mut [u8], tally: &mut Tally) -> Result<()> {
        loop {
            let read = match self.stream.read(buffer) {
                Ok(0) => bail!("the server closed a connection"),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("reading from the server"),
            };
            let now = tally.now();
            match &mut self.protocol {
                Protocol::Http2(http2) => http2.feed(&buffer[..read], &mut self.out, tally, now)?,
                Protocol::Nats(nats) => nats.feed(&buffer[..read], &mut self.out, tally, now)?,
            }
            // All that was there: there will be another event.
            if read < buffer.len() {
                break;
            }
        }
        self.flush()
    }
}

/// What was left over, and what came; nothing is copied when nothing was left.
fn joined<'a>(rest: &mut Vec<u8>, input: &'a [u8]) -> Cow<'a, [u8]> {
    if rest.is_empty() {
        return Cow::Borrowed(input);
    }
    let mut joined = std::mem::take(rest);
    joined.extend_from_slice(input);
    Cow::Owned(joined)
}
