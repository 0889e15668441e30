//! Refuses calls beyond what is bounded, at once and before their message is read: a queue would only
//! make them late.
//!
//! # Layout
//!
//! * [`places`]: who gets the next place. Knows nothing of HTTP.
//! * [`memory`]: how many bytes all messages may have together.
//!
//! A request holds its place until its answer begins; a stream holds one of another kind for its
//! whole life.

mod memory;
mod places;

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use flotilla_kit::call::USER;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::{Status, body::Body, transport::server::TcpConnectInfo};
use tower::{Layer, Service};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::refusal;
use crate::config::Limits;
use memory::Memory;
use places::{Places, Refused, StreamPlace};

/// What a method is to the server, as the contract says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in super::super) struct MethodKind {
    /// Its answer is a stream.
    pub(in super::super) streams: bool,
    /// It has side effects.
    pub(in super::super) changes: bool,
}

/// Makes [`Admission`]; all that it makes share their bounds.
#[derive(Clone)]
pub(in super::super) struct AdmissionLayer(Arc<Shared>);

struct Shared {
    places: Arc<Places>,
    memory: Arc<Memory>,
    methods: Arc<HashMap<String, MethodKind>>,
    header_bytes: u64,
}

impl AdmissionLayer {
    /// `methods` by path; one that isn't there is taken for a read.
    pub(in super::super) fn new(limits: &Limits, methods: Arc<HashMap<String, MethodKind>>) -> Self {
        Self(Arc::new(Shared {
            places: Places::new(limits),
            memory: Memory::new(limits.messages_in_work.bytes()),
            methods,
            header_bytes: limits.header_size.bytes(),
        }))
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission { inner, shared: self.0.clone() }
    }
}

/// Bounds the calls and streams in the service inside.
#[derive(Clone)]
pub(in super::super) struct Admission<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Service<Request<Body>> for Admission<S>
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
        let refused = |response| -> Self::Future { Box::pin(std::future::ready(Ok(response))) };
        let bytes = header_bytes(&request);
        if bytes > self.shared.header_bytes {
            return refused(refusal::headers_too_large(bytes, self.shared.header_bytes));
        }
        let MethodKind { streams, changes } =
            self.shared.methods.get(request.uri().path()).copied().unwrap_or_default();
        let (places, caller) = (&self.shared.places, caller(&request));
        let taken = places.request(caller, changes).and_then(|place| {
            let stream = streams.then(|| places.stream(caller)).transpose()?;
            Ok((place, stream))
        });
        let (place, stream) = match taken {
            Ok(taken) => taken,
            Err(Refused::Full { what, bound }) => return refused(refusal::overloaded(what, bound)),
            Err(Refused::Share { what, held, share }) => return refused(refusal::over_share(what, held, share)),
        };
        // Held by the body while it is read, and here until there is an answer.
        let taken = self.shared.memory.begin();
        let answer = self.inner.call(request.map(|body| memory::counted(body, taken.clone())));
        Box::pin(async move {
            let response = answer.await?;
            drop((place, taken));
            Ok(match stream {
                Some(place) => response.map(|inner| Body::new(Streaming { inner, _place: place })),
                None => response,
            })
        })
    }
}

/// The user that the call names, else the address that it comes from.
fn caller(request: &Request<Body>) -> u64 {
    let user = request.headers().get(USER).map(http::HeaderValue::as_bytes).filter(|user| !user.is_empty());
    if let Some(user) = user {
        return xxh3_64(user);
    }
    let address = request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
    // The seed keeps an address apart from a user with the same bytes.
    match address.map(|address| address.ip().to_canonical()) {
        Some(std::net::IpAddr::V4(ip)) => xxh3_64_with_seed(&ip.octets(), 1),
        Some(std::net::IpAddr::V6(ip)) => xxh3_64_with_seed(&ip.octets(), 1),
        None => 0,
    }
}

/// As HTTP/2 counts: 32 bytes more for each header.
fn header_bytes(request: &Request<Body>) -> u64 {
    let headers = request.headers().iter();
    let bytes: usize = headers.map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    (bytes + request.uri().path().len()) as u64
}

pin_project! {
    struct Streaming {
        #[pin]
        inner: Body,
        _place: StreamPlace,
    }
}

impl http_body::Body for Streaming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::sync::Notify;
    use tonic::Code;
    use tower::ServiceExt;

    use super::*;

    fn code(response: &Response<Body>) -> Option<Code> {
        Status::from_header_map(response.headers()).map(|status| status.code())
    }

    fn request(path: &str) -> Request<Body> {
        Request::builder().uri(path).body(Body::empty()).unwrap()
    }

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
        let limits = Limits { concurrent_requests: 1, ..Limits::default() };
        let admission = AdmissionLayer::new(&limits, Arc::default()).layer(inner);

        let first = tokio::spawn(admission.clone().oneshot(request("/a")));
        tokio::task::yield_now().await;
        let second = admission.clone().oneshot(request("/a")).await.unwrap();
        assert_eq!(code(&second), Some(Code::ResourceExhausted));

        go.notify_one();
        assert_eq!(code(&first.await.unwrap().unwrap()), None);
        go.notify_one();
        assert_eq!(code(&admission.oneshot(request("/a")).await.unwrap()), None);
    }

    #[tokio::test]
    async fn a_stream_keeps_its_place_until_its_body_is_gone() {
        let inner = tower::service_fn(async |_: Request<Body>| {
            Ok::<_, Infallible>(Response::new(Body::new(axum::body::Body::from("not read yet"))))
        });
        let limits = Limits { streams: 1, ..Limits::default() };
        let methods = HashMap::from([("/watch".to_owned(), MethodKind { streams: true, changes: false })]);
        let admission = AdmissionLayer::new(&limits, Arc::new(methods)).layer(inner);
        let open = admission.clone().oneshot(request("/watch")).await.unwrap();
        let refused = admission.clone().oneshot(request("/watch")).await.unwrap();
        assert_eq!((code(&open), code(&refused)), (None, Some(Code::ResourceExhausted)));
        assert_eq!(code(&admission.clone().oneshot(request("/get")).await.unwrap()), None);
        drop(open);
        assert_eq!(code(&admission.oneshot(request("/watch")).await.unwrap()), None);
    }

    #[tokio::test]
    async fn headers_over_the_bound_are_refused_with_their_size() {
        let inner = tower::service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::empty())));
        let admission = AdmissionLayer::new(&Limits::default(), Arc::default()).layer(inner);
        let mut large = request("/a");
        large.headers_mut().insert("x-large", "x".repeat(20_000).parse().unwrap());
        assert_eq!(code(&admission.oneshot(large).await.unwrap()), Some(Code::InvalidArgument));
    }
}
