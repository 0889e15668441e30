//! The ear for the other servers of the cell: a service to be mounted on the main port.
//!
//! A caller is checked by its headers, before a byte of its message is read.

use std::{
    convert::Infallible,
    future::ready,
    net::IpAddr,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use flotilla_proto::peer::v1::peer_service_server::{PeerServiceServer, SERVICE_NAME};
use flotilla_replica::peer::{Host, Introduction, MAX_MESSAGE, Refusal};
use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::{Code, Status, body::Body, server::NamedService, transport::server::TcpConnectInfo};
use tower::Service;

use crate::{
    Metrics, Secret, metadata,
    refusals::{self, Refused},
    service::PeerHandlers,
    tally::Tally,
};

/// Who could vote and append in a cell without a secret would own its data.
const NO_SECRET: &str = "this server has no secret (cluster.secret_file), and without one it hears no other machine";

/// The service `flotilla.peer.v1.PeerService`. Cheap to clone.
#[derive(Clone)]
pub struct PeerServer {
    service: PeerServiceServer<PeerHandlers>,
    secret: Option<Secret>,
    tally: Arc<Tally>,
}

/// Who makes a call, known before its message is.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) introduction: Introduction,
    pub(crate) remote: Option<IpAddr>,
}

impl PeerServer {
    /// Hands over to the host. Until one is set, whoever calls is told that this server isn't serving.
    pub fn new(host: Arc<OnceLock<Arc<dyn Host>>>, secret: Option<Secret>, metrics: Metrics) -> Self {
        let tally = Arc::new(Tally::new(metrics));
        let service = PeerServiceServer::new(PeerHandlers::new(host, tally.clone()))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Self { service, secret, tally }
    }
}

impl NamedService for PeerServer {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<Request<Body>> for PeerServer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.service, context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let connection = request.extensions().get::<TcpConnectInfo>();
        let remote = connection.and_then(TcpConnectInfo::remote_addr).map(|address| address.ip());
        let read = match self.secret.is_none() && remote.is_some_and(|remote| !remote.to_canonical().is_loopback()) {
            true => Err(Refused::new(Refusal::Secret, NO_SECRET)),
            false => metadata::read(request.headers(), self.secret.as_ref()),
        };
        let introduction = match read {
            Ok(introduction) => introduction,
            Err(refused) => {
                self.tally.refuse(&refused, remote, None);
                return Box::pin(ready(Ok(refused.status().into_http())));
            }
        };
        request.extensions_mut().insert(Caller { introduction: introduction.clone(), remote });
        let answer = self.service.call(request);
        let tally = self.tally.clone();
        Box::pin(async move {
            let response = answer.await?;
            let Some(refused) = unread(&response) else { return Ok(response) };
            tally.refuse(&refused, remote, Some(&introduction));
            Ok(refused.status().into_http())
        })
    }
}

/// tonic's own refusal of a message that it could not read, or that is too large. What the service
/// says has other codes, or an `ErrorInfo`.
fn unread(response: &Response<Body>) -> Option<Refused> {
    let status = Status::from_header_map(response.headers())?;
    // A caller that gave up before its message came is no stranger.
    if status.message() == "Missing request message." {
        return None;
    }
    let unread = matches!(status.code(), Code::OutOfRange | Code::Internal) && refusals::refusal(&status).is_none();
    unread.then(|| Refused::new(Refusal::Malformed, status.message()))
}
