//! A stream that is opened again when it broke: what the streams of all services share. It knows
//! nothing of what comes through.

use std::{future::Future, pin::Pin, time::Duration};

use tokio::time::Instant;
use tonic::{Status, Streaming};

use crate::{backoff::Backoff, error::root_cause, retry};

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
}

enum State<R> {
    Closed { until: Option<Instant> },
    Opening { opening: Opening<R>, until: Instant },
    Open { stream: Box<Streaming<R>>, since: Instant, heard: Instant },
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
        Self { state: State::Closed { until: None }, backoff, broken: false }
    }

    /// Waits for what comes next. May be dropped and called again at any moment: nothing is lost, and
    /// no bound begins anew.
    pub(crate) async fn hear(&mut self, open: impl FnOnce() -> Opening<R>) -> Heard<R> {
        if let State::Closed { until } = self.state {
            if let Some(until) = until {
                tokio::time::sleep_until(until).await;
            }
            self.state = State::Opening { opening: open(), until: Instant::now() + OPEN };
        }
        match &mut self.state {
            State::Closed { .. } => self.lost("it was never opened".to_owned(), None),
            State::Opening { opening, until } => match tokio::time::timeout_at(*until, opening).await {
                Ok(Ok(stream)) => {
                    self.state = State::Open { stream: Box::new(stream), since: Instant::now(), heard: Instant::now() };
                    Heard::Opened { again: std::mem::take(&mut self.broken) }
                }
                Ok(Err(status)) => self.failed(status),
                Err(_) => self.lost(format!("no answer within {OPEN:?}"), None),
            },
            State::Open { stream, heard, .. } => {
                match tokio::time::timeout_at(*heard + SILENCE, stream.message()).await {
                    Ok(Ok(Some(response))) => {
                        *heard = Instant::now();
                        Heard::Message(response)
                    }
                    Ok(Ok(None)) => self.lost("the server ended the stream".to_owned(), None),
                    Ok(Err(status)) => self.failed(status),
                    Err(_) => self.lost(format!("nothing was heard for {SILENCE:?}"), None),
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

    fn failed(&mut self, status: Status) -> Heard<R> {
        match retry::is_final(&status) {
            true => {
                self.leave();
                Heard::Refused(status)
            }
            false => self.lost(describe(&status), retry::asked(&status)),
        }
    }

    fn lost(&mut self, reason: String, asked: Option<Duration>) -> Heard<R> {
        let pause = self.backoff.next().max(asked.unwrap_or_default());
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
