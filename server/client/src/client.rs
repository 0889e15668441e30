//! The caller's identity, and calls with deadlines and retries, to whichever server of a cell suits.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::Instant;
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataMap, MetadataValue},
    transport::Channel,
};

use crate::{
    CallError,
    backoff::Backoff,
    cell::{Cell, Kind, Lease, Link, endpoints},
    methods::{Directed, Method},
    retry::{self, Bucket, RetryBudget},
};

/// Whom to call, as whom, and for how long.
#[derive(Debug, Clone)]
pub struct Target {
    /// `http://host:port`, of any server of the cell; or several, with commas between them.
    pub endpoint: String,
    /// Call nobody but the endpoint, or one of those that are given: the cell's own list isn't asked for.
    pub only_given: bool,
    /// The id of the user to act as.
    pub user: Option<String>,
    /// The device to act as, 1 to 128 printable ASCII characters that are made once and kept.
    pub device: Option<String>,
    /// How long a call may take, with its retries.
    pub timeout: Duration,
    /// How much may be tried again.
    pub retries: RetryBudget,
}

impl Target {
    /// A server or several, nobody in particular to act as, and 30 seconds for a call.
    pub fn new(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            only_given: false,
            user: None,
            device: None,
            timeout: Duration::from_secs(30),
            retries: RetryBudget::default(),
        }
    }

    /// Calls nobody but the endpoint that is given (or one of several): for asking how that server is,
    /// or where the cell's own addresses must not be used. Without this, calls go to any server of the
    /// cell.
    #[must_use]
    pub fn only_given(self) -> Self {
        Self { only_given: true, ..self }
    }

    /// Whether the endpoints are addresses.
    ///
    /// # Errors
    /// If one isn't.
    pub fn check(&self) -> Result<(), CallError> {
        endpoints::parse(&self.endpoint, self.timeout).map(drop)
    }

    /// Acts as the user with this id.
    #[must_use]
    pub fn user(self, id: impl Into<String>) -> Self {
        Self { user: Some(id.into()), ..self }
    }

    /// Acts as this device.
    #[must_use]
    pub fn device(self, device: impl Into<String>) -> Self {
        Self { device: Some(device.into()), ..self }
    }

    /// Gives a call so long, with its retries.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Tries again only so much.
    #[must_use]
    pub fn retries(self, retries: RetryBudget) -> Self {
        Self { retries, ..self }
    }
}

/// The way to the servers of a cell, and the caller's identity. Cheap to clone; clones share the
/// connections, which open again by themselves when they broke, and the retry budget.
///
/// Whichever endpoint is given, the client asks there for the cell's servers and follows what happens
/// to them. What changes something goes to the leader; what reads, and streams, to the less busy of two
/// random servers. Where a server fails, calls go to another one. The addresses of the list are used
/// once a connection has shown that they lead to these servers; until then, and where they can't be
/// reached, the given endpoints are.
///
/// A connection is opened when a call wants it. The list is followed by one task, which ends when the
/// last clone is dropped.
#[derive(Debug, Clone)]
pub struct Client {
    cell: Arc<Cell>,
    /// A connection that was chosen already.
    pinned: Option<Channel>,
    endpoint: Arc<str>,
    user: Option<MetadataValue<Ascii>>,
    device: Option<MetadataValue<Ascii>>,
    timeout: Duration,
    budget: Arc<Bucket>,
}

/// After how many pauses a call is tried at most. Going to another server takes no pause.
const PAUSES: u32 = 7;

/// What a client accepts in one message: more than a server sends in a page.
pub const MAX_MESSAGE: usize = 16 << 20;

impl Client {
    /// Connects to one of the target's endpoints.
    ///
    /// # Errors
    /// If an endpoint is no address, nobody answers at any, or the caller's name can't be sent.
    pub async fn connect(target: &Target) -> Result<Self, CallError> {
        let (user, device) = (sendable("user", &target.user)?, sendable("device", &target.device)?);
        Ok(Self::of(Cell::connect(target).await?, target, user, device))
    }

    /// Uses a connection that was made otherwise: over TLS, a Unix socket, through a balancer. All
    /// calls use it; the target's endpoint is only told in errors.
    ///
    /// # Errors
    /// If the caller's name can't be sent.
    pub fn over(channel: Channel, target: &Target) -> Result<Self, CallError> {
        let (user, device) = (sendable("user", &target.user)?, sendable("device", &target.device)?);
        Ok(Self::of(Cell::over(channel, &target.endpoint), target, user, device))
    }

    fn of(cell: Cell, target: &Target, user: Name, device: Name) -> Self {
        Self {
            cell: Arc::new(cell),
            pinned: None,
            endpoint: target.endpoint.as_str().into(),
            user,
            device,
            timeout: target.timeout,
            budget: Arc::new(Bucket::new(target.retries)),
        }
    }

    /// The same connections for another user.
    ///
    /// # Errors
    /// If the user's id can't be sent.
    pub fn acting_as(&self, user: &str) -> Result<Self, CallError> {
        Ok(Self { user: sendable("user", &Some(user))?, ..self.clone() })
    }

    /// The same connections for another device.
    ///
    /// # Errors
    /// If the device's name can't be sent.
    pub fn on_device(&self, device: &str) -> Result<Self, CallError> {
        Ok(Self { device: sendable("device", &Some(device))?, ..self.clone() })
    }

    /// Makes a call, as [`unary`](Self::unary) does. A request that changes something gets a request
    /// id if it has none.
    ///
    /// # Errors
    /// The last failure.
    pub async fn call<M: Method>(&self, message: M) -> Result<M::Answer, CallError> {
        Ok(self.answer(message).await?.into_inner())
    }

    /// As [`call`](Self::call), with the metadata of the answer.
    ///
    /// # Errors
    /// The last failure.
    pub async fn answer<M: Method>(&self, mut message: M) -> Result<Response<M::Answer>, CallError> {
        message.prepare();
        self.directed(M::kind(), message, M::send).await
    }

    /// Makes a call of any service, and makes it again where that may help and can't harm: the
    /// server asks for it or can't be reached, the retry budget allows it, and the time lasts. A call
    /// that its server failed is made at another one, if there is one. The message goes out unchanged
    /// each time: a change's request id makes its retries count once.
    ///
    /// # Errors
    /// The last failure.
    pub async fn unary<M, R, F>(
        &self,
        message: M,
        call: impl Fn(Channel, Request<M>) -> F,
    ) -> Result<Response<R>, CallError>
    where
        M: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        self.directed(Kind::ANY, message, call).await
    }

    async fn directed<M, R, F>(
        &self,
        kind: Kind,
        message: M,
        call: impl Fn(Channel, Request<M>) -> F,
    ) -> Result<Response<R>, CallError>
    where
        M: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let deadline = Instant::now() + self.timeout;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut pauses_left = PAUSES;
        let mut tried = Vec::new();
        let mut lease = self.lease(kind, &tried);
        loop {
            let mut request = self.request(message.clone());
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
            let answer = self.attempt(kind, &lease, deadline, call(self.channel_of(&lease), request)).await;
            let failure = match answer {
                Attempt::Answered(Ok(response)) => {
                    lease.link().succeeded();
                    self.budget.succeeded();
                    return Ok(response);
                }
                Attempt::Answered(Err(status)) if retry::is_timeout(&status) => break,
                Attempt::Answered(Err(status)) => Failure::of(&status, lease.link()),
                Attempt::GivenUp => Failure::of_lost(lease.link()),
                Attempt::TimedOut => break,
            };
            if failure.blames_server {
                lease.link().failed(failure.broken);
            }
            if failure.may_go_elsewhere() {
                tried.push(lease.link().clone());
            }
            let other = failure.may_go_elsewhere().then(|| self.cell.other(kind, &tried)).flatten();
            let pause = match (failure.again, &other) {
                (Again::Never, _) | (Again::Elsewhere, None) => return Err(failure.error),
                (Again::After(Some(asked)), _) => asked,
                (Again::After(None) | Again::Elsewhere, Some(_)) => Duration::ZERO,
                (Again::After(None), None) => backoff.next(),
            };
            let affordable = self.budget.failed();
            if !affordable || Instant::now() + pause >= deadline {
                return Err(failure.error);
            }
            lease = match other.filter(|_| pause.is_zero()) {
                Some(other) => other,
                None if pauses_left == 0 => return Err(failure.error),
                None => {
                    pauses_left -= 1;
                    tokio::time::sleep(pause).await;
                    // Each has its turn again, those first that aren't known to fail.
                    let tried = std::mem::take(&mut tried);
                    self.lease(kind, &tried)
                }
            };
        }
        Err(CallError::TimedOut { endpoint: lease.link().name().to_owned(), after: self.timeout })
    }

    /// Waits for an answer, but not for one of a server that the cell can't reach any more while others
    /// could answer.
    async fn attempt<R>(
        &self,
        kind: Kind,
        lease: &Lease,
        deadline: Instant,
        call: impl Future<Output = Result<Response<R>, Status>>,
    ) -> Attempt<R> {
        let mut lost = lease.lost();
        let mut call = std::pin::pin!(tokio::time::timeout_at(deadline, call));
        loop {
            tokio::select! {
                biased;
                answer = &mut call => return answer.map_or(Attempt::TimedOut, Attempt::Answered),
                Ok(()) = lost.changed() => {
                    if self.cell.other(kind, std::slice::from_ref(lease.link())).is_some() {
                        return Attempt::GivenUp;
                    }
                }
            }
        }
    }

    /// A server for a call, and none of those that were tried if it can be helped.
    pub(crate) fn lease(&self, kind: Kind, tried: &[Arc<Link>]) -> Lease {
        self.cell.pick(kind, tried)
    }

    /// The same for the server that was chosen alone.
    pub(crate) fn pinned(&self, lease: &Lease) -> Self {
        Self { pinned: Some(lease.channel()), ..self.clone() }
    }

    fn channel_of(&self, lease: &Lease) -> Channel {
        self.pinned.clone().unwrap_or_else(|| lease.channel())
    }

    /// A message with the caller's identity, for calls that are made otherwise.
    pub fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        let metadata: &mut MetadataMap = request.metadata_mut();
        for (key, value) in [("flotilla-user", &self.user), ("flotilla-device", &self.device)] {
            if let Some(value) = value {
                metadata.insert(key, value.clone());
            }
        }
        request
    }

    /// What the status of a call that was made otherwise means.
    pub fn failure(&self, status: &Status) -> CallError {
        CallError::from_status(&self.endpoint, status)
    }

    /// A connection to one server, for calls that are made otherwise. It stays with that server, and
    /// opens again by itself when it broke; asked again, this may give one to another server. Must be
    /// called within a tokio runtime.
    pub fn channel(&self) -> Channel {
        self.channel_of(&self.lease(Kind::ANY, &[]))
    }

    /// Whom it calls, as it was given.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The id of the user it acts as.
    pub fn user(&self) -> Option<&str> {
        self.user.as_ref().and_then(|user| user.to_str().ok())
    }

    /// The device it acts as.
    pub fn device(&self) -> Option<&str> {
        self.device.as_ref().and_then(|device| device.to_str().ok())
    }
}

/// A new request id, a ULID: for a new intent.
pub fn request_id() -> String {
    ulid::Ulid::new().to_string()
}

/// A name that can be sent, if there is one.
type Name = Option<MetadataValue<Ascii>>;

fn sendable<S: AsRef<str>>(what: &'static str, name: &Option<S>) -> Result<Name, CallError> {
    let parse = |name: &str| name.parse().map_err(|_| CallError::Name { what, name: name.to_owned() });
    name.as_ref().map(|name| parse(name.as_ref())).transpose()
}

/// How one try ended.
enum Attempt<R> {
    Answered(Result<Response<R>, Status>),
    /// The server is lost, as the cell says.
    GivenUp,
    TimedOut,
}

/// A try that failed.
struct Failure {
    again: Again,
    /// The server is to be avoided.
    blames_server: bool,
    /// Its connection is gone.
    broken: bool,
    error: CallError,
}

/// Whether trying again may help.
#[derive(Clone, Copy)]
enum Again {
    Never,
    /// Only at another server.
    Elsewhere,
    /// After the pause that was asked for.
    After(Option<Duration>),
}

impl Failure {
    fn of(status: &Status, link: &Link) -> Self {
        let again = match retry::after(status) {
            Some(asked) => Again::After(asked),
            None if retry::helps_elsewhere(status) => Again::Elsewhere,
            None => Again::Never,
        };
        Self {
            again,
            blames_server: retry::blames_server(status),
            broken: retry::is_broken(status),
            error: CallError::from_status(link.name(), status),
        }
    }

    fn of_lost(link: &Link) -> Self {
        let reason = "the other servers of its cell can't reach it".to_owned();
        let error = CallError::Unreachable { endpoint: link.name().to_owned(), reason };
        Self { again: Again::After(None), blames_server: true, broken: true, error }
    }

    fn may_go_elsewhere(&self) -> bool {
        self.blames_server || matches!(self.again, Again::Elsewhere)
    }
}
