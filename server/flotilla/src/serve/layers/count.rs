//! Counts every call once, with the code that its caller sees.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use super::slow::{SlowLog, Watched};
use crate::serve::metrics::{MethodMetrics, Methods};

/// Makes [`Count`].
#[derive(Clone)]
pub(in super::super) struct CountLayer {
    pub(in super::super) methods: Arc<Methods>,
    pub(in super::super) slow: Arc<SlowLog>,
}

impl<S> Layer<S> for CountLayer {
    type Service = Count<S>;

    fn layer(&self, inner: S) -> Count<S> {
        Count { inner, methods: self.methods.clone(), slow: self.slow.clone() }
    }
}

/// Counts the calls of the service inside.
#[derive(Clone)]
pub(in super::super) struct Count<S> {
    inner: S,
    methods: Arc<Methods>,
    slow: Arc<SlowLog>,
}

impl<S> Service<Request<Body>> for Count<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut call = Call::begin(self.methods.of(request.uri().path()).clone(), self.slow.watch(&request));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            call.answered();
            // A status in the headers is all there is; otherwise it comes in the trailers.
            match code(response.headers()) {
                Some(code) => {
                    call.see(code);
                    Ok(response)
                }
                None => Ok(response.map(|inner| Body::new(CountedBody { inner, call }))),
            }
        })
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|status| Code::from_bytes(status.as_bytes()))
}

/// A call in work. Dropped before a code was seen, its caller has gone away.
struct Call {
    method: Arc<MethodMetrics>,
    started: Instant,
    code: Code,
    watched: Option<Watched>,
}

impl Call {
    fn begin(method: Arc<MethodMetrics>, watched: Option<Watched>) -> Self {
        method.begin();
        Self { method, started: Instant::now(), code: Code::Cancelled, watched }
    }

    fn answered(&mut self) {
        if let Some(watched) = &mut self.watched {
            watched.answered(self.started.elapsed());
        }
    }

    fn see(&mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        self.method.end(self.code, took);
        if let Some(watched) = &self.watched {
            watched.end(self.code, took);
        }
    }
}

pin_project! {
    struct CountedBody {
        #[pin]
        inner: Body,
        call: Call,
    }
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(code) = frame.trailers_ref().and_then(code) {
                    this.call.see(code);
                }
            }
            Some(Err(status)) => this.call.see(status.code()),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
