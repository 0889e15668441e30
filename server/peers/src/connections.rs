//! One HTTP/2 connection for each address and class of calls, made when it is first needed and made
//! anew when it broke, with the name looked up again.
//!
//! An attempt belongs to nobody: who waits for it may give up, and it goes on for the next one.

use std::{
    cmp::Reverse,
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::{TcpStream, lookup_host},
    sync::oneshot,
    time::{Instant, timeout, timeout_at},
};
use tonic::body::Body;

/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How long an address that could not be reached is left alone.
const PAUSE: Duration = Duration::from_millis(100);
/// How long an address that made trouble comes after the others.
const DEMOTED: Duration = Duration::from_secs(1);
/// A silent connection is asked after this long whether it is still there …
const KEEPALIVE: Duration = Duration::from_secs(2);
/// … and closed if it doesn't answer within this.
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(2);
/// Beyond so many addresses those are forgotten that weren't used for `FORGET`.
const MAX_ADDRESSES: usize = 32;
/// See `MAX_ADDRESSES`.
const FORGET: Duration = Duration::from_secs(600);

/// Calls that share a connection. They don't delay those of another class: a receiver that is slow to
/// take appends or a snapshot fills the window of their connection, and votes still pass.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Class {
    /// Calls with one answer.
    Calls,
    /// Appends and heartbeats.
    Appends,
    /// Snapshots.
    Snapshots,
}

/// Sends requests over one connection.
pub(crate) type Sender = SendRequest<Body>;
type Attempt = Shared<BoxFuture<'static, Result<Sender, Arc<str>>>>;

/// All connections that this server made.
#[derive(Default)]
pub(crate) struct Connections {
    addresses: Mutex<HashMap<String, Arc<Address>>>,
}

/// One "host:port".
struct Address {
    name: String,
    state: Mutex<State>,
}

struct State {
    used: Instant,
    /// When it was last connected to.
    connected: Option<Instant>,
    /// When it last could not be reached, or was the wrong one.
    trouble: Option<Instant>,
    slots: [Slot; 3],
}

enum Slot {
    Empty,
    Connecting(Attempt),
    Open { sender: Sender, since: Instant },
    Failed { why: Arc<str>, at: Instant },
}

impl Connections {
    /// A connection to the first of the candidates that can be reached, and which one that is.
    ///
    /// # Errors
    ///
    /// Why each of them can't be reached.
    pub(crate) async fn open(
        &self,
        class: Class,
        candidates: &[String],
        deadline: Instant,
    ) -> Result<(Sender, String), String> {
        let candidates = self.ordered(candidates);
        let mut failures = Vec::new();
        for (position, address) in candidates.iter().enumerate() {
            let left = candidates.len() - position;
            // One that doesn't answer leaves time for the others.
            let share = deadline.saturating_duration_since(Instant::now()) / u32::try_from(left).unwrap_or(u32::MAX);
            match address.open(class, share).await {
                Ok(sender) => return Ok((sender, address.name.clone())),
                Err(why) => failures.push(format!("{}: {why}", address.name)),
            }
        }
        match failures.is_empty() {
            true => Err("no address of it is known".into()),
            false => Err(failures.join("; ")),
        }
    }

    /// Tries the other candidates first for a while: this one turned out to be the wrong server.
    pub(crate) fn demote(&self, address: &str) {
        if let Some(address) = self.locked().get(address) {
            address.locked().trouble = Some(Instant::now());
        }
    }

    /// Those without trouble first, then the one that worked last, then in their order.
    fn ordered(&self, candidates: &[String]) -> Vec<Arc<Address>> {
        let now = Instant::now();
        let mut addresses = self.locked();
        if addresses.len() >= MAX_ADDRESSES {
            addresses.retain(|_, address| now.duration_since(address.locked().used) < FORGET);
        }
        let mut ordered: Vec<Arc<Address>> = Vec::with_capacity(candidates.len());
        for name in candidates {
            let address = addresses.entry(name.clone()).or_insert_with(|| Arc::new(Address::new(name.clone())));
            if !ordered.iter().any(|known| Arc::ptr_eq(known, address)) {
                ordered.push(address.clone());
            }
        }
        drop(addresses);
        ordered.sort_by_cached_key(|address| {
            let mut state = address.locked();
            state.used = now;
            let trouble = state.trouble.is_some_and(|at| now.duration_since(at) < DEMOTED);
            (trouble, Reverse(state.connected))
        });
        ordered
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, Arc<Address>>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Address {
    fn new(name: String) -> Self {
        let slots = [const { Slot::Empty }; 3];
        Self { name, state: Mutex::new(State { used: Instant::now(), connected: None, trouble: None, slots }) }
    }

    async fn open(self: &Arc<Self>, class: Class, patience: Duration) -> Result<Sender, Arc<str>> {
        let attempt = match self.kept(class) {
            Kept::Open(sender) => return Ok(sender),
            Kept::Failed(why) => return Err(why),
            Kept::Connecting(attempt) => attempt,
        };
        let patience_ends = Instant::now() + patience.min(CONNECT);
        match timeout_at(patience_ends, attempt).await {
            Ok(outcome) => outcome,
            Err(_) => {
                self.locked().trouble = Some(Instant::now());
                Err("not connected in time".into())
            }
        }
    }

    /// What there is; an attempt is begun where there is nothing.
    fn kept(self: &Arc<Self>, class: Class) -> Kept {
        let mut state = self.locked();
        match &state.slots[class as usize] {
            Slot::Connecting(attempt) => return Kept::Connecting(attempt.clone()),
            Slot::Open { sender, .. } if !sender.is_closed() => return Kept::Open(sender.clone()),
            Slot::Open { since, .. } if since.elapsed() < PAUSE => {
                return Kept::Failed("it closes connections at once".into());
            }
            Slot::Failed { why, at } if at.elapsed() < PAUSE => return Kept::Failed(why.clone()),
            Slot::Empty | Slot::Open { .. } | Slot::Failed { .. } => {}
        }
        let (done, outcome) = oneshot::channel();
        let address = self.clone();
        // It settles the slot under the lock that is held here, so after it is set.
        tokio::spawn(async move {
            let outcome = connect(&address.name).await;
            address.settle(class, &outcome);
            // Nobody may wait any more.
            let _ = done.send(outcome);
        });
        let abandoned = || Err("the attempt was abandoned, the server is stopping".into());
        let attempt = outcome.map(move |outcome| outcome.unwrap_or_else(|_| abandoned())).boxed().shared();
        state.slots[class as usize] = Slot::Connecting(attempt.clone());
        Kept::Connecting(attempt)
    }

    fn settle(&self, class: Class, outcome: &Result<Sender, Arc<str>>) {
        let now = Instant::now();
        let mut state = self.locked();
        state.slots[class as usize] = match outcome {
            Ok(sender) => {
                state.connected = Some(now);
                Slot::Open { sender: sender.clone(), since: now }
            }
            Err(why) => {
                state.trouble = Some(now);
                Slot::Failed { why: why.clone(), at: now }
            }
        };
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What there is of a connection.
enum Kept {
    Open(Sender),
    Connecting(Attempt),
    Failed(Arc<str>),
}

async fn connect(address: &str) -> Result<Sender, Arc<str>> {
    let stream = match timeout(CONNECT, dial(address)).await {
        Ok(stream) => stream.map_err(|error| error.to_string())?,
        Err(_) => return Err(format!("not connected within {CONNECT:?}").into()),
    };
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_ANSWER)
        .keep_alive_while_idle(true);
    // Only writes the preface; nothing is waited for.
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let address = address.to_owned();
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(address, error = %causes(&error), "a connection to a peer broke");
        }
    });
    Ok(sender)
}

/// Connects to the first of a name's addresses that takes it, each with an equal part of the time.
async fn dial(address: &str) -> io::Result<TcpStream> {
    let ends = Instant::now() + CONNECT;
    let addresses: Vec<_> = lookup_host(address).await?.collect();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (position, socket) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - position).unwrap_or(u32::MAX);
        let share = ends.saturating_duration_since(Instant::now()) / left;
        match timeout(share, TcpStream::connect(socket)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => failure = error,
            Err(_) => failure = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failure)
}

/// An error with its causes, in one line.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
