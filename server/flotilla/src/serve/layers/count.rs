//! Counts every call once, with the code that its caller sees; and gives it its span, if it is traced.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use flotilla_kit::Traced;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::{Instrument, Span};

use super::{
    slow::{SlowLog, Watched},
    trace::{self, Sampler},
};
use crate::serve::metrics::{MethodMetrics, Methods};

/// Makes [`Count`].
#[derive(Clone)]
pub(in super::super) struct CountLayer {
    pub(in super::super) methods: Arc<Methods>,
    pub(in super::super) slow: Arc<SlowLog>,
    /// None: nothing is traced.
    pub(in super::super) sampler: Option<Sampler>,
}

impl<S> Layer<S> for CountLayer {
    type Service = Count<S>;

    fn layer(&self, inner: S) -> Count<S> {
        Count { inner, shared: self.clone() }
    }
}

/// Counts the calls of the service inside.
#[derive(Clone)]
pub(in super::super) struct Count<S> {
    inner: S,
    shared: CountLayer,
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

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let method = self.shared.methods.of(request.uri().path()).clone();
        let (service, name) = method.names();
        let watched = self.shared.slow.watch(&request);
        let traced = self.shared.sampler.and_then(|sampler| sampler.begin(request.headers(), service, name));
        let mut log_span = Span::none();
        if let Some(traced) = &traced {
            request.extensions_mut().insert(traced.trace());
            log_span = trace::log_span(traced);
        }
        let mut call = Call::begin(method, watched, traced);
        let answer = log_span.in_scope(|| self.inner.call(request)).instrument(log_span);
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
    traced: Option<Traced>,
}

impl Call {
    fn begin(method: Arc<MethodMetrics>, watched: Option<Watched>, traced: Option<Traced>) -> Self {
        method.begin();
        Self { method, started: Instant::now(), code: Code::Cancelled, watched, traced }
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
        if let Some(traced) = &self.traced {
            trace::ended(traced, self.code);
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
