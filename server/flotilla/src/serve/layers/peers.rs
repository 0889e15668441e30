//! What other servers of the cell say goes past everything that is for clients: it has no deadline to
//! be given, no share of places to be refused, and must be heard when the server is full of requests.

use std::task::{Context, Poll};

use futures::future::{BoxFuture, Either, MapErr, TryFutureExt};
use http::{Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

/// What the paths of peers' calls begin with.
const PATH: &str = "/flotilla.peer.v1.PeerService/";

/// Makes [`Peers`].
#[derive(Clone)]
pub(in super::super) struct PeersLayer<P> {
    /// Hears the peers.
    pub(in super::super) peers: P,
}

impl<P: Clone, S> Layer<S> for PeersLayer<P> {
    type Service = Peers<P, S>;

    fn layer(&self, inner: S) -> Peers<P, S> {
        Peers { peers: self.peers.clone(), inner }
    }
}

/// Leads calls of peers past the service inside.
#[derive(Clone)]
pub(in super::super) struct Peers<P, S> {
    peers: P,
    inner: S,
}

type Never<F, E> = MapErr<F, fn(std::convert::Infallible) -> E>;

impl<P, S> Service<Request<Body>> for Peers<P, S>
where
    P: Service<
            Request<Body>,
            Response = Response<Body>,
            Error = std::convert::Infallible,
            Future = BoxFuture<'static, Result<Response<Body>, std::convert::Infallible>>,
        >,
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<Never<P::Future, S::Error>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // The peers' service is always ready.
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match request.uri().path().starts_with(PATH) {
            true => Either::Left(self.peers.call(request).map_err(|never| match never {})),
            false => Either::Right(self.inner.call(request)),
        }
    }
}
