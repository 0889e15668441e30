//! Serves Subscribe with bytes that are encoded already, and leaves every other
//! method to the generated server.
//!
//! The generated one would encode each event for each subscriber, and give each
//! stream a buffer of 8 KiB, also those that are silent.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes};
use flotilla_proto::threads::v1::{
    SubscribeRequest,
    threads_service_server::{SERVICE_NAME, ThreadsServiceServer},
};
use futures::{StreamExt, future::BoxFuture, stream::BoxStream};
use http::{Request, Response};
use tonic::{
    Status,
    body::Body,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
    server::{Grpc, NamedService, ServerStreamingService},
};
use tonic_prost::ProstDecoder;
use tower::Service;

use crate::service::Threads;

const SUBSCRIBE: &str = "/flotilla.threads.v1.ThreadsService/Subscribe";
/// Bytes of a stream's buffer while it is silent …
const BUFFER: usize = 256;
/// … and that are gathered before they are handed on.
const GATHERED: usize = 16 * 1024;

/// The service, as it is mounted.
#[derive(Clone)]
pub(crate) struct Server {
    threads: Threads,
    generated: ThreadsServiceServer<Threads>,
}

impl Server {
    pub(crate) fn new(threads: Threads) -> Self {
        Self { generated: ThreadsServiceServer::new(threads.clone()), threads }
    }
}

impl NamedService for Server {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<Request<Body>> for Server {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() != SUBSCRIBE {
            return self.generated.call(request);
        }
        let subscribe = Subscribe(self.threads.clone());
        Box::pin(async move { Ok(Grpc::new(EncodedCodec).server_streaming(subscribe, request).await) })
    }
}

struct Subscribe(Threads);

impl ServerStreamingService<SubscribeRequest> for Subscribe {
    type Response = Bytes;
    type ResponseStream = BoxStream<'static, Result<Bytes, Status>>;
    type Future = BoxFuture<'static, Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<SubscribeRequest>) -> Self::Future {
        let threads = self.0.clone();
        Box::pin(async move { Ok(tonic::Response::new(threads.push(request).await?.boxed())) })
    }
}

/// Messages that are bytes already.
struct EncodedCodec;

impl Codec for EncodedCodec {
    type Encode = Bytes;
    type Decode = SubscribeRequest;
    type Encoder = Encoded;
    type Decoder = ProstDecoder<SubscribeRequest>;

    fn encoder(&mut self) -> Encoded {
        Encoded
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::default()
    }
}

struct Encoded;

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, GATHERED)
    }
}
