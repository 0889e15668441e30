//! Calls to the other services of the same server, without a network: what one
//! service must know of another it asks for like any client, by the contract.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock, Weak},
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::{body::Body, service::Routes};
use tower::{Service, ServiceExt};

use crate::Error;

/// The services of this server, as a channel for generated clients. Cheap to
/// clone.
///
/// It doesn't keep the services alive: they hold it themselves. Once the server
/// is gone, calls are answered UNAVAILABLE.
#[derive(Debug, Clone, Default)]
pub struct Local {
    routes: Arc<OnceLock<Weak<Routes>>>,
}

impl Local {
    /// Says what there is, once all services are made. A second time changes
    /// nothing.
    pub fn set(&self, routes: &Arc<Routes>) {
        let _ = self.routes.set(Arc::downgrade(routes));
    }
}

impl Service<Request<Body>> for Local {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.routes.get().and_then(Weak::upgrade) {
            Some(routes) => Box::pin(Routes::clone(&routes).oneshot(request)),
            None => Box::pin(std::future::ready(Ok(tonic::Status::from(Error::ShuttingDown).into_http()))),
        }
    }
}
