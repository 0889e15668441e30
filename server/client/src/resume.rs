//! A stream that is opened again when it broke, at another server if there is one: what the streams
//! of all services share. It knows nothing of what comes through.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::time::Instant;
use tonic::{Status, Streaming};

use crate::{
    backoff::Backoff,
    cell::{Lease, Link},
    error::root_cause,
    retry,
};

/// A stream on its way.
pub type Opening<R> = Pin<Box<dyn Future<Output = Result<Streaming<R>, Status>> + Send>>;

/// A client that hears nothing for this long takes the stream for dead; a server sends a heartbeat
/// after 20 seconds.
const SILENCE: Duration = Duration::from_secs(60);
const OPEN: Duration = Duration::from_secs(10);
const LASTED: Duration = Duration::from_secs(10);

/// A stream, or the way to the next one.
pub(crate) struct Line<R> {
    state: State<R>,
    backoff: Backoff,
    /// It broke, and whoever listens was told.
    broken: bool,
    /// The server where it broke: the next stream is opened at another one.
    left: Option<Arc<Link>>,
}

enum State<R> {
    Closed { until: Option<Instant> },
    Opening { lease: Lease, opening: Opening<R>, until: Instant },
    Open { lease: Lease, stream: Box<Streaming<R>>, since: Instant, heard: Instant },
}

/// What comes of listening.
pub(crate) enum Heard<R> {
    Opened {
        again: bool,
    },
    Message(R),
    Lost {
        reason: String,
        pause: Duration,
    },
    /// Trying again can't help.
    Refused(Status),
}

impl<R> Line<R> {
    pub(crate) fn new() -> Self {
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));
        Self { state: State::Closed { until: None }, backoff, broken: false, left: None }
    }

    /// Waits for what comes next. May be dropped and called again at any moment: nothing is lost, and
    /// no bound begins anew. A stream is opened at any server but those that `open` is given, if it can
    /// be helped.
    pub(crate) async fn hear(&mut self, open: impl FnOnce(&[Arc<Link>]) -> (Lease, Opening<R>)) -> Heard<R> {
        if let State::Closed { until } = self.state {
            if let Some(until) = until {
                tokio::time::sleep_until(until).await;
            }
            let (lease, opening) = open(self.left.as_slice());
            self.state = State::Opening { lease, opening, until: Instant::now() + OPEN };
        }
        match &mut self.state {
            State::Closed { .. } => self.lost("it was never opened".to_owned(), None),
            State::Opening { opening, until, .. } => match tokio::time::timeout_at(*until, opening).await {
                Ok(Ok(stream)) => {
                    self.opened(stream);
                    Heard::Opened { again: std::mem::take(&mut self.broken) }
                }
                Ok(Err(status)) => self.failed(status),
                Err(_) => self.silent(format!("no answer within {OPEN:?}")),
            },
            State::Open { stream, heard, .. } => {
                match tokio::time::timeout_at(*heard + SILENCE, stream.message()).await {
                    Ok(Ok(Some(response))) => {
                        *heard = Instant::now();
                        Heard::Message(response)
                    }
                    Ok(Ok(None)) => self.lost("the server ended the stream".to_owned(), None),
                    Ok(Err(status)) => self.failed(status),
                    Err(_) => self.silent(format!("nothing was heard for {SILENCE:?}")),
                }
            }
        }
    }

    /// What came shows that the stream works: after a break, begin with a short pause.
    pub(crate) fn works(&mut self) {
        self.backoff.reset();
    }

    /// A sign of life came. One comes at the beginning of every stream, also of those that break right
    /// after it: only of a stream that has lasted it says that it works.
    pub(crate) fn lives(&mut self) {
        if matches!(self.state, State::Open { since, .. } if since.elapsed() >= LASTED) {
            self.backoff.reset();
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Leaves the stream; the next one is opened without a pause.
    pub(crate) fn leave(&mut self) {
        self.state = State::Closed { until: None };
    }

    /// Leaves the stream for one at another server.
    pub(crate) fn move_on(&mut self) {
        self.left = self.link().cloned();
        self.leave();
    }

    fn link(&self) -> Option<&Arc<Link>> {
        match &self.state {
            State::Closed { .. } => None,
            State::Opening { lease, .. } | State::Open { lease, .. } => Some(lease.link()),
        }
    }

    fn opened(&mut self, stream: Streaming<R>) {
        let state = std::mem::replace(&mut self.state, State::Closed { until: None });
        if let State::Opening { lease, .. } = state {
            lease.link().succeeded();
            let (stream, now) = (Box::new(stream), Instant::now());
            self.state = State::Open { lease, stream, since: now, heard: now };
        }
    }

    /// Nothing came for too long.
    fn silent(&mut self, reason: String) -> Heard<R> {
        if let Some(link) = self.link() {
            link.failed(true);
        }
        self.lost(reason, None)
    }

    fn failed(&mut self, status: Status) -> Heard<R> {
        if let Some(link) = self.link().filter(|_| retry::blames_server(&status)) {
            link.failed(retry::is_broken(&status));
        }
        match retry::is_final(&status) {
            true => {
                self.move_on();
                Heard::Refused(status)
            }
            false => self.lost(describe(&status), retry::asked(&status)),
        }
    }

    fn lost(&mut self, reason: String, asked: Option<Duration>) -> Heard<R> {
        let pause = self.backoff.next().max(asked.unwrap_or_default());
        self.left = self.link().cloned().or(self.left.take());
        self.state = State::Closed { until: Some(Instant::now() + pause) };
        self.broken = true;
        Heard::Lost { reason, pause }
    }
}

fn describe(status: &Status) -> String {
    use std::error::Error;
    match status.source() {
        Some(source) => root_cause(source),
        None => status.message().to_owned(),
    }
}
