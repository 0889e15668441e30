//! Ends a call when its caller no longer waits.
//!
//! tonic does the same but says CANCELLED; this stands inside it, and answers first.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use flotilla_kit::call;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use tokio::time::Instant;
use tonic::body::Body;
use tower::{Layer, Service};

use super::refusal;

/// Makes [`Deadline`].
#[derive(Clone)]
pub(in super::super) struct DeadlineLayer;

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner }
    }
}

/// Gives the service inside as long as the metadata `grpc-timeout` says, or 30 seconds, to its first
/// byte.
#[derive(Clone)]
pub(in super::super) struct Deadline<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for Deadline<S>
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
        // Also of a caller that doesn't say: a message that never ends would keep its place for ever.
        let timeout = timeout(request.headers()).unwrap_or(call::DEFAULT_TIMEOUT).min(call::MAX_TIMEOUT);
        // Made now rather than when polled, so that this timer is due before tonic's own.
        let expired = tokio::time::sleep(timeout);
        let answer = self.inner.call(request);
        Box::pin(async move {
            if Instant::now() >= expired.deadline() {
                return Ok(refusal::expired_before());
            }
            tokio::select! {
                biased;
                response = answer => response,
                () = expired => Ok(refusal::expired_in_work()),
            }
        })
    }
}

/// Until when the caller waits, if it says.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    call::timeout(headers.get("grpc-timeout")?.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
    };

    use tonic::{Code, Status};
    use tower::ServiceExt;

    use super::*;

    /// The code of a call that is done at once or never, and whether it was begun.
    async fn call_with(timeout: &str, ends: bool) -> (Option<Code>, bool) {
        let begun = Arc::new(AtomicBool::new(false));
        let seen = begun.clone();
        let inner = tower::service_fn(move |_: Request<Body>| {
            let seen = seen.clone();
            async move {
                seen.store(true, Ordering::Relaxed);
                match ends {
                    true => Ok::<_, Infallible>(Response::new(Body::empty())),
                    false => std::future::pending().await,
                }
            }
        });
        let request = Request::builder().header("grpc-timeout", timeout).body(Body::empty()).unwrap();
        let response = DeadlineLayer.layer(inner).oneshot(request).await.unwrap();
        let status = Status::from_header_map(response.headers());
        (status.map(|status| status.code()), begun.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn an_expired_call_is_not_begun() {
        assert_eq!(call_with("0n", true).await, (Some(Code::DeadlineExceeded), false));
    }

    #[tokio::test]
    async fn a_call_ends_with_its_deadline_and_not_before() {
        assert_eq!(call_with("1H", true).await, (None, true));
        assert_eq!(call_with("20m", false).await, (Some(Code::DeadlineExceeded), true));
    }
}
