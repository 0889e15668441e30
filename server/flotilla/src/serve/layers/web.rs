//! Lets a page of any origin call the server: it is the caller's identity that will protect data,
//! not the page's address.

use std::{
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::future::Either;
use http::{HeaderName, Method, Request, Response, header};
use tower::{Layer, Service};
use tower_http::cors::{AllowOrigin, Cors, CorsLayer, ResponseFuture};

const ALLOWED: [&str; 11] = [
    "flotilla-user",
    "flotilla-device",
    "flotilla-consistency",
    "grpc-timeout",
    "grpc-accept-encoding",
    "x-grpc-web",
    "x-user-agent",
    "te",
    "authorization",
    super::trace::TRACEPARENT,
    "tracestate",
];

const EXPOSED: [&str; 5] =
    ["grpc-status", "grpc-message", "grpc-status-details-bin", "flotilla-revision", "flotilla-server"];

/// Makes [`CrossOrigin`].
#[derive(Clone)]
pub(in super::super) struct CrossOriginLayer(CorsLayer);

impl CrossOriginLayer {
    pub(in super::super) fn new() -> Self {
        let allowed = ALLOWED.iter().copied().map(HeaderName::from_static).chain([header::CONTENT_TYPE]);
        let cors = CorsLayer::new()
            .allow_origin(AllowOrigin::any())
            .allow_methods([Method::POST, Method::GET])
            .allow_headers(allowed.collect::<Vec<_>>())
            .expose_headers(EXPOSED.map(HeaderName::from_static))
            .max_age(Duration::from_hours(24));
        Self(cors)
    }
}

impl<S: Clone> Layer<S> for CrossOriginLayer {
    type Service = CrossOrigin<S>;

    fn layer(&self, inner: S) -> CrossOrigin<S> {
        CrossOrigin { cors: self.0.layer(inner.clone()), plain: inner }
    }
}

/// Answers preflights, and marks what a page may read. Calls that come from no page are left alone:
/// their answers need none of it.
#[derive(Clone)]
pub(in super::super) struct CrossOrigin<S> {
    cors: Cors<S>,
    plain: S,
}

impl<S, RequestBody, ResponseBody> Service<Request<RequestBody>> for CrossOrigin<S>
where
    S: Service<Request<RequestBody>, Response = Response<ResponseBody>>,
    ResponseBody: Default,
{
    type Response = Response<ResponseBody>;
    type Error = S::Error;
    type Future = Either<ResponseFuture<S::Future>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        ready!(self.cors.poll_ready(cx))?;
        self.plain.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        match request.headers().contains_key(header::ORIGIN) {
            true => Either::Left(self.cors.call(request)),
            false => Either::Right(self.plain.call(request)),
        }
    }
}
