//! Bare tonic streams: a server with one method that streams what is posted, and one that posts, and nothing else.
//!
//! What was posted lately is a list that all streams share; a stream is a place in it and a waker. Nothing is stored or
//! checked. Messages go through tonic's ordinary codec.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll, Waker};

use anyhow::Result;
use prost::Message;
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

use super::echo::Payload;
use super::{Fsyncs, START_LIMIT, Server};
use crate::load::grpc::framed;
use crate::process::{Process, free_address};
use crate::requests::once;

pub(crate) const POST: &str = "flotilla.bench.Streams/Post";
pub(crate) const SUBSCRIBE: &str = "flotilla.bench.Streams/Subscribe";

/// Starts one, and waits until it answers.
pub(crate) fn start(folder: &Path) -> Result<Server> {
    let address = free_address()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve-streams", &address.to_string()]);
    let mut process = Process::start("tonic", command, folder)?;
    let probe = framed(|buffer| Payload::default().encode(buffer).unwrap_or_default());
    process.wait_until(START_LIMIT, || once(address, POST, probe.clone()))?;
    Ok(Server { process, address, fsyncs: Fsyncs::NotCounted })
}

/// The server itself; returns only on an error.
pub(crate) fn serve(address: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let incoming = TcpListenerStream::new(TcpListener::bind(address).await?);
        let incoming = tokio_stream::StreamExt::map(incoming, |stream| {
            let stream = stream?;
            stream.set_nodelay(true)?;
            std::io::Result::Ok(stream)
        });
        let streams = Streams::default();
        Ok(tonic::transport::Server::builder().add_service(streams).serve_with_incoming(incoming).await?)
    })
}

/// Payloads that are kept; no stream is ever so far behind here.
const KEPT: usize = 1 << 16;

#[derive(Default)]
struct Posted {
    payloads: RwLock<Recent>,
    /// Of streams that have all of them.
    waiting: Mutex<Vec<Waker>>,
}

#[derive(Default)]
struct Recent {
    payloads: VecDeque<Payload>,
    /// How many were forgotten.
    first: usize,
}

impl Posted {
    fn post(&self, payload: Payload) {
        let mut recent = self.payloads.write().unwrap_or_else(PoisonError::into_inner);
        recent.payloads.push_back(payload);
        if recent.payloads.len() > KEPT {
            recent.payloads.pop_front();
            recent.first += 1;
        }
        drop(recent);
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().for_each(Waker::wake);
    }

    fn get(&self, place: usize) -> Option<Payload> {
        let recent = self.payloads.read().unwrap_or_else(PoisonError::into_inner);
        recent.payloads.get(place.saturating_sub(recent.first)).cloned()
    }

    fn end(&self) -> usize {
        let recent = self.payloads.read().unwrap_or_else(PoisonError::into_inner);
        recent.first + recent.payloads.len()
    }
}

struct Place {
    posted: Arc<Posted>,
    next: usize,
}

impl Stream for Place {
    type Item = Result<Payload, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut found = self.posted.get(self.next);
        if found.is_none() {
            self.posted.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(context.waker().clone());
            // What was posted before it waited wakes nobody.
            found = self.posted.get(self.next);
        }
        let Some(payload) = found else { return Poll::Pending };
        self.next += 1;
        Poll::Ready(Some(Ok(payload)))
    }
}

/// What generated code would be for a service of these two methods.
#[derive(Clone, Default)]
struct Streams(Arc<Posted>);

impl NamedService for Streams {
    const NAME: &'static str = "flotilla.bench.Streams";
}

impl Service<http::Request<Body>> for Streams {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<Payload, Payload>::default();
            Ok(match request.uri().path().ends_with("/Post") {
                true => Grpc::new(codec).unary(method, request).await,
                false => Grpc::new(codec).server_streaming(method, request).await,
            })
        })
    }
}

impl UnaryService<Payload> for Streams {
    type Response = Payload;
    type Future = Ready<Result<Response<Payload>, Status>>;

    fn call(&mut self, request: Request<Payload>) -> Self::Future {
        self.0.post(request.into_inner());
        ready(Ok(Response::new(Payload::default())))
    }
}

impl ServerStreamingService<Payload> for Streams {
    type Response = Payload;
    type ResponseStream = Place;
    type Future = Ready<Result<Response<Place>, Status>>;

    fn call(&mut self, _request: Request<Payload>) -> Self::Future {
        let place = Place { next: self.0.end(), posted: self.0.clone() };
        ready(Ok(Response::new(place)))
    }
}
