//! The way of one call: finds a connection, sends over it, and knows whether the call was sent.
//!
//! A connection may be found broken just when it is used. hyper then gives the request back, which
//! nobody has seen, and it goes over a new connection.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response, Uri, uri::Scheme};
use hyper::body::Incoming;
use tokio::time::Instant;
use tonic::body::Body;
use tower::Service;

use crate::connections::{Class, Connections, causes};

/// How many connections a request may be given back by.
const ATTEMPTS: usize = 3;

/// A call didn't bring an answer. It has no source on purpose: tonic would look through it.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum RouteError {
    /// It certainly wasn't sent.
    #[error("{0}")]
    NotSent(String),
    /// It may have been.
    #[error("{0}")]
    Broken(String),
}

/// Carries one call.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) connections: Arc<Connections>,
    pub(crate) class: Class,
    pub(crate) candidates: Arc<[String]>,
    /// Until when a connection is waited for.
    pub(crate) deadline: Instant,
    pub(crate) progress: Arc<Progress>,
}

/// How far a call came.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    sent: AtomicBool,
    address: OnceLock<String>,
}

impl Progress {
    /// It may have been sent.
    pub(crate) fn is_sent(&self) -> bool {
        self.sent.load(Ordering::Acquire)
    }

    /// Where it was answered, or should have been.
    pub(crate) fn address(&self) -> Option<&str> {
        self.address.get().map(String::as_str)
    }
}

impl Service<Request<Body>> for Route {
    type Response = Response<Incoming>;
    type Error = RouteError;
    type Future = BoxFuture<'static, Result<Response<Incoming>, RouteError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), RouteError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let route = self.clone();
        Box::pin(async move { route.carry(request).await })
    }
}

impl Route {
    async fn carry(self, mut request: Request<Body>) -> Result<Response<Incoming>, RouteError> {
        let mut given_back = String::new();
        for _ in 0..ATTEMPTS {
            let opened = self.connections.open(self.class, &self.candidates, self.deadline).await;
            let (mut sender, address) = opened.map_err(RouteError::NotSent)?;
            *request.uri_mut() = directed(request.uri(), &address)?;
            self.progress.sent.store(true, Ordering::Release);
            match sender.try_send_request(request).await {
                Ok(response) => {
                    // Set once: nothing is sent again after an answer.
                    let _ = self.progress.address.set(address);
                    return Ok(response);
                }
                Err(mut failure) => {
                    let Some(unsent) = failure.take_message() else {
                        return Err(RouteError::Broken(format!("{address}: {}", causes(failure.error()))));
                    };
                    self.progress.sent.store(false, Ordering::Release);
                    given_back = format!("{address}: {}", causes(failure.error()));
                    request = unsent;
                }
            }
        }
        Err(RouteError::NotSent(given_back))
    }
}

/// The request's URI at the address.
fn directed(uri: &Uri, address: &str) -> Result<Uri, RouteError> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let directed = Uri::builder().scheme(Scheme::HTTP).authority(address).path_and_query(path).build();
    directed.map_err(|_| RouteError::NotSent(format!("{address}: is not of the form host:port")))
}
