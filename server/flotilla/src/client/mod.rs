//! Calls with deadlines and retries, streams that resume, messages as JSON.
//!
//! # Layout
//!
//! * `error`: what a call that failed means for a person, and what to do next.
//! * `backoff`: growing, jittered pauses.
//! * `follow`: a watch stream that survives broken connections and servers.
//! * `json`: any message of the contract in the JSON that protobuf defines.
//!
//! It knows nothing of arguments, terminals or files.

mod backoff;
mod error;
pub mod follow;
pub mod json;

use std::{future::Future, time::Duration};

use tokio::time::Instant;
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataMap, MetadataValue},
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

pub use error::{CallError, Refusal};

use backoff::Backoff;
use flotilla_proto::errors::v1::Reason;

/// Whom to call, as whom, and for how long.
#[derive(Debug, Clone)]
pub struct Target {
    /// `http://host:port`.
    pub endpoint: String,
    /// The user to act as.
    pub user: Option<String>,
    /// The device to act as.
    pub device: Option<String>,
    /// How long a call may take, with its retries.
    pub timeout: Duration,
}

/// A connection to a server, and the caller's identity.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    endpoint: String,
    user: Option<MetadataValue<Ascii>>,
    device: Option<MetadataValue<Ascii>>,
    timeout: Duration,
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
            reason: error::root_cause(&error),
        })?;
        Ok(Self {
            channel,
            endpoint: target.endpoint.clone(),
            user: sendable("as", target.user.as_deref())?,
            device: sendable("device", target.device.as_deref())?,
            timeout: target.timeout,
        })
    }

    /// Makes a call, and makes it again while the server asks for that and the time lasts. The
    /// message goes out unchanged each time: a mutation's request id makes its retries count once.
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
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(status)) if is_timeout(&status) => break,
                Ok(Err(status)) => status,
                Err(_) => break,
            };
            let pause = retry_after(&status).map(|asked| asked.unwrap_or_else(|| backoff.next()));
            match pause {
                Some(pause) if tries_left > 0 && Instant::now() + pause < deadline => tokio::time::sleep(pause).await,
                _ => return Err(CallError::from_status(&self.endpoint, &status)),
            }
        }
        Err(CallError::TimedOut { endpoint: self.endpoint.clone(), after: self.timeout })
    }

    /// A message with the caller's identity.
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

    /// What the status of a call on [`Client::channel`] means.
    pub fn failure(&self, status: &Status) -> CallError {
        CallError::from_status(&self.endpoint, status)
    }

    /// The connection, for streams.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Whom it calls.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

/// A new request id: for a new intent.
pub fn request_id() -> String {
    ulid::Ulid::new().to_string()
}

fn sendable(what: &'static str, name: Option<&str>) -> Result<Option<MetadataValue<Ascii>>, CallError> {
    let value = name.map(|name| name.parse().map_err(|_| CallError::Name { what, name: name.to_owned() }));
    value.transpose()
}

/// tonic says CANCELLED when its own timer ends a call.
fn is_timeout(status: &Status) -> bool {
    status.code() == Code::Cancelled && status.message().contains("Timeout expired")
}

/// Whether to try again, and after which pause if the server says.
fn retry_after(status: &Status) -> Option<Option<Duration>> {
    let details = status.get_error_details();
    let asked = details.retry_info().and_then(|info| info.retry_delay);
    let reason = details.error_info().and_then(|info| Reason::from_wire_name(&info.reason));
    match (status.code(), reason) {
        // Only a person can help with these.
        (_, Some(Reason::LogFailed | Reason::DiskFull)) => None,
        (Code::Unavailable, _) => Some(asked),
        (Code::ResourceExhausted, _) => asked.map(Some),
        _ => None,
    }
}
