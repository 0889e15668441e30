//! A connection to a server, the caller's identity, and calls with deadlines and retries.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::Instant;
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataMap, MetadataValue},
    transport::{Channel, Endpoint},
};

use crate::{
    CallError,
    backoff::Backoff,
    error::root_cause,
    methods::Method,
    retry::{self, Bucket, RetryBudget},
};

/// Whom to call, as whom, and for how long.
#[derive(Debug, Clone)]
pub struct Target {
    /// `http://host:port`.
    pub endpoint: String,
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
    /// A server, nobody in particular to act as, and 30 seconds for a call.
    pub fn new(endpoint: impl Into<String>) -> Self {
        let timeout = Duration::from_secs(30);
        Self { endpoint: endpoint.into(), user: None, device: None, timeout, retries: RetryBudget::default() }
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

/// A connection to a server, and the caller's identity. Cheap to clone; clones share the
/// connection, which opens again by itself when it broke, and the retry budget.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    endpoint: Arc<str>,
    user: Option<MetadataValue<Ascii>>,
    device: Option<MetadataValue<Ascii>>,
    timeout: Duration,
    budget: Arc<Bucket>,
}

/// How often a call is tried at most.
const TRIES: u32 = 8;
const CONNECT: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);

/// What a client accepts in one message: more than a server sends in a page.
pub const MAX_MESSAGE: usize = 16 << 20;

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// If the endpoint is no address, nobody answers there, or the caller's name can't be sent.
    pub async fn connect(target: &Target) -> Result<Self, CallError> {
        let unusable =
            |reason: &str| CallError::Endpoint { endpoint: target.endpoint.clone(), reason: reason.to_owned() };
        let endpoint = match target.endpoint.split_once("://") {
            Some(("http", _)) => Endpoint::from_shared(target.endpoint.clone()),
            Some(("https", _)) => return Err(unusable("this version speaks no TLS: use http://")),
            Some(_) => return Err(unusable("only http:// is known")),
            None => Endpoint::from_shared(format!("http://{}", target.endpoint)),
        };
        let endpoint = endpoint
            .map_err(|_| unusable("it must look like http://127.0.0.1:7400"))?
            .connect_timeout(CONNECT.min(target.timeout))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_ANSWER)
            .keep_alive_while_idle(true);
        let channel = endpoint.connect().await.map_err(|error| CallError::Unreachable {
            endpoint: target.endpoint.clone(),
            reason: root_cause(&error),
        })?;
        Self::over(channel, target)
    }

    /// Uses a connection that was made otherwise: over TLS, a Unix socket, to several servers. The
    /// target's endpoint is only told in errors.
    ///
    /// # Errors
    /// If the caller's name can't be sent.
    pub fn over(channel: Channel, target: &Target) -> Result<Self, CallError> {
        Ok(Self {
            channel,
            endpoint: target.endpoint.as_str().into(),
            user: sendable("user", target.user.as_deref())?,
            device: sendable("device", target.device.as_deref())?,
            timeout: target.timeout,
            budget: Arc::new(Bucket::new(target.retries)),
        })
    }

    /// The same connection for another user.
    ///
    /// # Errors
    /// If the user's id can't be sent.
    pub fn acting_as(&self, user: &str) -> Result<Self, CallError> {
        Ok(Self { user: sendable("user", Some(user))?, ..self.clone() })
    }

    /// The same connection for another device.
    ///
    /// # Errors
    /// If the device's name can't be sent.
    pub fn on_device(&self, device: &str) -> Result<Self, CallError> {
        Ok(Self { device: sendable("device", Some(device))?, ..self.clone() })
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
        self.unary(message, M::send).await
    }

    /// Makes a call of any service, and makes it again where that may help and can't harm: the
    /// server asks for it or can't be reached, the retry budget allows it, and the time lasts. The
    /// message goes out unchanged each time: a change's request id makes its retries count once.
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
        let deadline = Instant::now() + self.timeout;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        for tries_left in (0..TRIES).rev() {
            let mut request = self.request(message.clone());
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
            let answer = tokio::time::timeout_at(deadline, call(self.channel.clone(), request)).await;
            let status = match answer {
                Ok(Ok(response)) => {
                    self.budget.succeeded();
                    return Ok(response);
                }
                Ok(Err(status)) if retry::is_timeout(&status) => break,
                Ok(Err(status)) => status,
                Err(_) => break,
            };
            let Some(asked) = retry::after(&status) else {
                return Err(CallError::from_status(&self.endpoint, &status));
            };
            let affordable = self.budget.failed();
            let pause = asked.unwrap_or_else(|| backoff.next());
            if !affordable || tries_left == 0 || Instant::now() + pause >= deadline {
                return Err(CallError::from_status(&self.endpoint, &status));
            }
            tokio::time::sleep(pause).await;
        }
        Err(CallError::TimedOut { endpoint: self.endpoint.to_string(), after: self.timeout })
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

    /// The connection, for calls that are made otherwise.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Whom it calls.
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

fn sendable(what: &'static str, name: Option<&str>) -> Result<Option<MetadataValue<Ascii>>, CallError> {
    let value = name.map(|name| name.parse().map_err(|_| CallError::Name { what, name: name.to_owned() }));
    value.transpose()
}
