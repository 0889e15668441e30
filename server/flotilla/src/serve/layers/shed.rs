//! Refuses calls beyond a number in work at once, at once: a queue would only make them late.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use tokio::sync::Semaphore;
use tonic::body::Body;
use tower::{Layer, Service};

use super::refusal;

/// Makes [`Shed`]; all that it makes share one bound.
#[derive(Clone)]
pub(in super::super) struct ShedLayer {
    free: Arc<Semaphore>,
    bound: usize,
}

impl ShedLayer {
    pub(in super::super) fn new(bound: usize) -> Self {
        let bound = bound.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(bound)), bound }
    }
}

impl<S> Layer<S> for ShedLayer {
    type Service = Shed<S>;

    fn layer(&self, inner: S) -> Shed<S> {
        Shed { inner, shared: self.clone() }
    }
}

/// Bounds the calls in work in the service inside. A stream counts only until it is open: how many
/// may be is bounded by connection.
#[derive(Clone)]
pub(in super::super) struct Shed<S> {
    inner: S,
    shared: ShedLayer,
}

impl<S> Service<Request<Body>> for Shed<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.shared.free.clone().try_acquire_owned() {
            Ok(place) => {
                let answer = self.inner.call(request);
                Box::pin(async move {
                    let response = answer.await;
                    drop(place);
                    response
                })
            }
            Err(_) => Box::pin(std::future::ready(Ok(refusal::overloaded(self.shared.bound)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::sync::Notify;
    use tonic::{Code, Status};
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_call_beyond_the_bound_is_refused_at_once_and_served_after() {
        let go = Arc::new(Notify::new());
        let wait = go.clone();
        let inner = tower::service_fn(move |_: Request<Body>| {
            let wait = wait.clone();
            async move {
                wait.notified().await;
                Ok::<_, Infallible>(Response::new(Body::empty()))
            }
        });
        let shed = ShedLayer::new(1).layer(inner);
        let code = |response: Response<Body>| Status::from_header_map(response.headers()).map(|status| status.code());

        let first = tokio::spawn(shed.clone().oneshot(Request::new(Body::empty())));
        tokio::task::yield_now().await;
        let second = shed.clone().oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(code(second), Some(Code::ResourceExhausted));

        go.notify_one();
        assert_eq!(code(first.await.unwrap().unwrap()), None);
        go.notify_one();
        assert_eq!(code(shed.oneshot(Request::new(Body::empty())).await.unwrap()), None);
    }
}
