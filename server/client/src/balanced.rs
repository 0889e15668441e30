//! The servers of a cell as one channel, for generated clients that are used otherwise than through
//! [`Client`](crate::Client): without an identity, a deadline or pauses of its own.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use tonic::{Code, Status, body::Body};
use tower::{Service, ServiceExt};

use crate::{
    CallError, MAX_MESSAGE, Target,
    cell::{Cell, Does, Kind},
};

/// A service of a cell, at whichever of its servers: what one can't answer the next one is asked, at
/// once and each of them once; the caller decides about more. Cheap to clone; clones share the
/// connections.
///
/// Headers go out as they come, a deadline among them. A request is kept whole while it may have to be
/// sent again, up to [`MAX_MESSAGE`]; an answer comes as it is sent, however long.
#[derive(Debug, Clone)]
pub struct Balanced {
    cell: Arc<Cell>,
    service: &'static str,
}

impl Balanced {
    /// The service with this short name at the target's endpoints and the other servers of their cell.
    /// Connections are made when they are used. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If an endpoint is no address.
    pub fn new(target: &Target, service: &'static str) -> Result<Self, CallError> {
        Ok(Self { cell: Arc::new(Cell::new(target)?), service })
    }
}

impl Service<Request<Body>> for Balanced {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let kind = Kind { service: self.service, does: Does::Read };
        let cell = self.cell.clone();
        Box::pin(async move { Ok(send(&cell, kind, request).await.unwrap_or_else(|status| status.into_http())) })
    }
}

async fn send(cell: &Cell, kind: Kind, request: Request<Body>) -> Result<Response<Body>, Status> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_MESSAGE).collect().await;
    let body = body.map_err(|error| Status::resource_exhausted(format!("the request can't be sent: {error}")))?;
    let body = body.to_bytes();
    let mut tried = Vec::new();
    let mut lease = cell.pick(kind, &tried);
    loop {
        let request = Request::from_parts(head.clone(), Body::new(Full::new(body.clone())));
        let answer = lease.channel().oneshot(request).await;
        let broken = answer.is_err();
        let failed = answer.as_ref().map_or(true, is_unavailable);
        let answer = answer.map_err(|error| Status::from_error(Box::new(error)));
        if !failed {
            lease.link().succeeded();
            return answer;
        }
        lease.link().failed(broken);
        tried.push(lease.link().clone());
        match cell.other(kind, &tried) {
            Some(other) => lease = other,
            None => return answer,
        }
    }
}

/// Whether the answer is nothing but a status that says so.
fn is_unavailable(answer: &Response<Body>) -> bool {
    Status::from_header_map(answer.headers()).is_some_and(|status| status.code() == Code::Unavailable)
}
