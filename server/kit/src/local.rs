//! Calls to other services: what one service must know of another it asks for
//! like any client, by the contract. Those of the same server are called without
//! a network, those that run in another cell at the addresses in the config.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, OnceLock, Weak},
    task::{Context, Poll},
};

use flotilla_client::Balanced;
use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::{body::Body, service::Routes};
use tower::{Service, ServiceExt};

use crate::Error;

/// The services of this server and those of other cells, as a channel for
/// generated clients. Cheap to clone.
///
/// It doesn't keep this server's services alive: they hold it themselves. Once
/// the server is gone, calls are answered UNAVAILABLE.
#[derive(Debug, Clone, Default)]
pub struct Local {
    routes: Arc<OnceLock<Weak<Routes>>>,
    /// By the service's gRPC name.
    elsewhere: Arc<HashMap<&'static str, Balanced>>,
}

impl Local {
    /// With services that run in other cells, by their gRPC names.
    pub fn with_others(elsewhere: HashMap<&'static str, Balanced>) -> Self {
        Self { elsewhere: Arc::new(elsewhere), ..Self::default() }
    }

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
        let service = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
        if let Some(balanced) = self.elsewhere.get(service) {
            return balanced.clone().call(request);
        }
        match self.routes.get().and_then(Weak::upgrade) {
            Some(routes) => Box::pin(Routes::clone(&routes).oneshot(request)),
            None => Box::pin(std::future::ready(Ok(tonic::Status::from(Error::ShuttingDown).into_http()))),
        }
    }
}
