//! Before the server is ready only what it needs for that is served; then everything.

use std::{
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use http::Request;
use tonic::{body::Body, service::Routes};
use tower::{Layer, Service};

/// What is served once the server is ready.
pub(in super::super) type Later = Arc<OnceLock<Arc<Routes>>>;

/// Makes [`Ready`].
#[derive(Clone)]
pub(in super::super) struct ReadyLayer(pub(in super::super) Later);

impl Layer<Routes> for ReadyLayer {
    type Service = Ready;

    fn layer(&self, early: Routes) -> Ready {
        Ready { early, later: self.0.clone() }
    }
}

/// Leads calls to what is served now.
#[derive(Clone)]
pub(in super::super) struct Ready {
    early: Routes,
    later: Later,
}

impl Service<Request<Body>> for Ready {
    type Response = <Routes as Service<Request<Body>>>::Response;
    type Error = <Routes as Service<Request<Body>>>::Error;
    type Future = <Routes as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<Request<Body>>::poll_ready(&mut self.early, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.later.get() {
            // Routes are always ready.
            Some(routes) => Routes::clone(routes).call(request),
            None => self.early.call(request),
        }
    }
}
