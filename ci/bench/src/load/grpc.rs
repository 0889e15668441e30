//! Unary gRPC calls over h2 itself: encoded requests in, encoded answers out, and nothing between.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::{Answers, Plan, Requests, Window, open_window};

/// Of a stream and of a connection; answers are small, so that neither is ever used up.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// An HTTP/2 connection; clones share it.
#[derive(Clone)]
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    address: SocketAddr,
    user: HeaderValue,
}

/// Who calls, where it doesn't matter.
pub(crate) const DEFAULT_USER: &str = "bench";

impl Connection {
    /// Connects and begins HTTP/2; the connection lives on the runtime that this is called on.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        Self::open_as(address, DEFAULT_USER).await
    }

    /// The same, whose calls are on behalf of a user.
    pub(crate) async fn open_as(address: SocketAddr, user: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(stream)
            .await
            .with_context(|| format!("beginning HTTP/2 with {address}"))?;
        // Its error reaches whoever waits for an answer.
        tokio::spawn(connection);
        Ok(Self { requests, address, user: user.parse()? })
    }

    /// The address of a method, `package.Service/Method`.
    pub(crate) fn uri(&self, method: &str) -> Result<Uri> {
        Ok(format!("http://{}/{method}", self.address).parse()?)
    }

    /// One call: a [`framed`] request, the answer's message. Fails unless the status is OK.
    pub(crate) async fn call(&mut self, uri: &Uri, request: Bytes) -> Result<Bytes> {
        poll_fn(|context| self.requests.poll_ready(context)).await?;
        let (response, mut body) = self.requests.send_request(head(uri, &self.user), false)?;
        body.send_data(request, true)?;
        let (head, mut body) = response.await?.into_parts();
        check_status(uri, &head.headers)?;
        let mut answer = Bytes::new();
        while let Some(part) = body.data().await {
            let part = part?;
            body.flow_control().release_capacity(part.len())?;
            answer = if answer.is_empty() { part } else { [answer, part].concat().into() };
        }
        match body.trailers().await? {
            Some(trailers) => check_status(uri, &trailers)?,
            None => bail!("{}: the answer was cut off", uri.path()),
        }
        Ok(answer.split_off(answer.len().min(5)))
    }
}

/// A message with the five bytes that gRPC puts before it, written by `write`.
pub(crate) fn framed(write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut buffer = BytesMut::with_capacity(512);
    buffer.put_bytes(0, 5);
    write(&mut buffer);
    let length = (buffer.len() - 5) as u32;
    buffer[1..5].copy_from_slice(&length.to_be_bytes());
    buffer.freeze()
}

fn head(uri: &Uri, user: &HeaderValue) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = uri.clone();
    let headers = request.headers_mut();
    headers.insert("te", HeaderValue::from_static("trailers"));
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("flotilla-user", user.clone());
    request
}

fn check_status(uri: &Uri, headers: &HeaderMap) -> Result<()> {
    match Status::from_header_map(headers) {
        Some(status) if status.code() != Code::Ok => {
            bail!("{} answered {:?}: {}", uri.path(), status.code(), status.message())
        }
        _ => Ok(()),
    }
}

pub(super) async fn drive(
    plan: Plan,
    method: &str,
    answered: Option<&Arc<dyn Fn(Bytes) + Send + Sync>>,
    requests: &(dyn Fn(usize) -> Requests + Send),
    ready: &mpsc::Sender<Window>,
) -> Result<Answers> {
    let mut connections = Vec::new();
    for number in 0..plan.connections {
        let connection = Connection::open(plan.address).await?;
        connections.extend(std::iter::repeat_n(connection, plan.slots_of(number)));
    }
    let window = open_window(plan, ready);
    let mut slots = JoinSet::new();
    for (number, connection) in connections.into_iter().enumerate() {
        let uri = connection.uri(method)?;
        slots.spawn(slot(connection, uri, requests(number), answered.cloned(), window));
    }
    let mut answers = Answers::default();
    while let Some(slot) = slots.join_next().await {
        answers.merge(slot??);
    }
    Ok(answers)
}

async fn slot(
    mut connection: Connection,
    uri: Uri,
    mut requests: Requests,
    answered: Option<Arc<dyn Fn(Bytes) + Send + Sync>>,
    window: Window,
) -> Result<Answers> {
    let mut answers = Answers::default();
    let mut begun = Instant::now();
    while !window.is_over(begun) {
        let Some(request) = requests() else { break };
        let answer = connection.call(&uri, request).await?;
        if let Some(answered) = &answered {
            answered(answer);
        }
        let done = Instant::now();
        answers.note(window, begun, done);
        begun = done;
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_framed_message_says_its_length() {
        assert_eq!(&framed(|buffer| buffer.put_slice(b"abc"))[..], b"\0\0\0\0\x03abc");
    }

    #[test]
    fn a_refused_call_is_an_error_that_names_method_and_reason() {
        let uri: Uri = "http://127.0.0.1:1/flotilla.records.v1.RecordsService/PutRecord".parse().unwrap_or_default();
        let mut headers = HeaderMap::new();
        assert!(check_status(&uri, &headers).is_ok());
        headers.insert("grpc-status", HeaderValue::from_static("8"));
        headers.insert("grpc-message", HeaderValue::from_static("disk%20full"));
        let error = check_status(&uri, &headers).map_err(|error| error.to_string());
        let text = "/flotilla.records.v1.RecordsService/PutRecord answered ResourceExhausted: disk full";
        assert_eq!(error, Err(text.to_owned()));
    }
}
