//! Bare tonic: a server of one unary method that reads a message of bytes and answers another, and nothing else.
//!
//! It is a process of its own (`flotilla-bench serve-echo`), so that its CPU time and memory are its own.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::Bytes;
use prost::Message;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

use super::{Fsyncs, START_LIMIT, Server};
use crate::load::grpc::framed;
use crate::load::{Protocol, Requests, Work};
use crate::process::{Process, free_address};
use crate::requests::once;

const ECHO: &str = "flotilla.bench.Echo/Echo";

/// The request, and the answer.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Payload {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) content: Bytes,
}

impl Payload {
    /// One that is `encoded_bytes` long on the wire (130 at the least counts right).
    fn of(encoded_bytes: usize) -> Self {
        let header = if encoded_bytes > 129 { 3 } else { 2 };
        Self { content: vec![b'e'; encoded_bytes.saturating_sub(header)].into() }
    }
}

/// Starts one that answers with messages of `answer_bytes`, and waits until it does.
pub(crate) fn start(folder: &Path, answer_bytes: usize) -> Result<Server> {
    let address = free_address()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve-echo", &address.to_string(), "--answer-bytes", &answer_bytes.to_string()]);
    let mut process = Process::start("echo", command, folder)?;
    let probe = framed(|buffer| Payload::default().encode(buffer).unwrap_or_default());
    process.wait_until(START_LIMIT, || once(address, ECHO, probe.clone()))?;
    Ok(Server { process, address, fsyncs: Fsyncs::NotCounted })
}

/// Calls with messages of `request_bytes`.
pub(crate) fn calls(request_bytes: usize) -> Work {
    let request = framed(|buffer| Payload::of(request_bytes).encode(buffer).unwrap_or_default());
    let requests = move |_slot| -> Requests {
        let request = request.clone();
        Box::new(move || Some(request.clone()))
    };
    Work { protocol: Protocol::Grpc { method: ECHO, answered: None }, requests: Box::new(requests) }
}

/// The server itself; returns only on an error.
pub(crate) fn serve(address: SocketAddr, answer_bytes: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let incoming = TcpListenerStream::new(TcpListener::bind(address).await?);
        let incoming = tokio_stream::StreamExt::map(incoming, |stream| {
            let stream = stream?;
            stream.set_nodelay(true)?;
            std::io::Result::Ok(stream)
        });
        let echo = Echo { answer: Payload::of(answer_bytes) };
        Ok(tonic::transport::Server::builder().add_service(echo).serve_with_incoming(incoming).await?)
    })
}

/// What generated code would be for a service of one unary method.
#[derive(Clone)]
struct Echo {
    answer: Payload,
}

impl NamedService for Echo {
    const NAME: &'static str = "flotilla.bench.Echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<Payload, Payload>::default();
            Ok(Grpc::new(codec).unary(method, request).await)
        })
    }
}

impl UnaryService<Payload> for Echo {
    type Response = Payload;
    type Future = Ready<Result<Response<Payload>, Status>>;

    fn call(&mut self, _request: Request<Payload>) -> Self::Future {
        ready(Ok(Response::new(self.answer.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_as_long_as_asked() {
        for bytes in [28, 60, 128, 131, 200, 300] {
            assert_eq!(Payload::of(bytes).encoded_len(), bytes);
        }
    }
}
