//! Calls the other servers of the cell.

use std::{sync::Arc, time::Duration};

use flotilla_proto::peer::v1::{self as peer, peer_service_client::PeerServiceClient};
use flotilla_replica::peer::{Answer, Answers, Call, Introduction, MAX_MESSAGE, Network, PeerError, Refusal, Requests};
use futures::{StreamExt, future::BoxFuture};
use http::Extensions;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use crate::{
    Secret,
    connections::{Class, Connections},
    faults::{self, Fault, Outgoing},
    metadata,
    refusals::{self, Refused},
    route::Route,
};

/// How long a stream may take to open: addresses are tried, and the peer must say that it listens.
const OPEN: Duration = Duration::from_secs(5);

/// The way to the other servers of the cell, over gRPC. Must be used within a tokio runtime; cheap to
/// clone, clones share their connections.
#[derive(Clone)]
pub struct PeerNetwork {
    connections: Arc<Connections>,
    secret: Option<Secret>,
}

impl PeerNetwork {
    /// A network that shows the secret of its cell, if it has one.
    pub fn new(secret: Option<Secret>) -> Self {
        Self { connections: Arc::default(), secret }
    }

    fn route(&self, class: Class, addresses: &[String], timeout: Duration) -> Route {
        Route {
            connections: self.connections.clone(),
            class,
            candidates: addresses.into(),
            deadline: Instant::now() + timeout,
            progress: Arc::default(),
        }
    }
}

impl Network for PeerNetwork {
    fn call(
        &self,
        addresses: &[String],
        introduction: Introduction,
        call: Call,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Answer, PeerError>> {
        let route = self.route(Class::Calls, addresses, timeout);
        let metadata = metadata::write(&introduction, self.secret.as_ref());
        Box::pin(async move {
            let metadata = MetadataMap::from_headers(metadata?);
            if let Some(refused) = too_large(&call) {
                return Err(refused.into());
            }
            within(timeout, route.clone(), dispatch(route, metadata, call)).await
        })
    }

    fn append(
        &self,
        addresses: &[String],
        introduction: Introduction,
        requests: Requests<peer::AppendRequest>,
    ) -> BoxFuture<'static, Result<Answers<peer::AppendResponse>, PeerError>> {
        let route = self.route(Class::Appends, addresses, OPEN);
        let metadata = metadata::write(&introduction, self.secret.as_ref());
        Box::pin(async move {
            let fault = Fault::default();
            let request = request(MetadataMap::from_headers(metadata?), Outgoing::new(requests, fault.clone()));
            let mut client = client(route.clone());
            Ok(answers(within(OPEN, route, client.append(request)).await?, fault))
        })
    }

    fn install_snapshot(
        &self,
        addresses: &[String],
        introduction: Introduction,
        requests: Requests<peer::InstallSnapshotRequest>,
    ) -> BoxFuture<'static, Result<Answers<peer::InstallSnapshotResponse>, PeerError>> {
        let route = self.route(Class::Snapshots, addresses, OPEN);
        let metadata = metadata::write(&introduction, self.secret.as_ref());
        Box::pin(async move {
            let fault = Fault::default();
            let request = request(MetadataMap::from_headers(metadata?), Outgoing::new(requests, fault.clone()));
            let mut client = client(route.clone());
            Ok(answers(within(OPEN, route, client.install_snapshot(request)).await?, fault))
        })
    }
}

/// Waits for an answer, and says of one that didn't come whether the call was sent.
async fn within<T>(
    timeout: Duration,
    route: Route,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, PeerError> {
    match timeout_at(route.deadline, answer).await {
        Ok(answer) => answer.map_err(|status| refusals::error(&status)).inspect_err(|error| turn_away(&route, error)),
        Err(_) if route.progress.is_sent() => Err(PeerError::TimedOut(timeout)),
        Err(_) => Err(PeerError::Unreachable(format!("not connected within {timeout:?}"))),
    }
}

/// Whoever is another server than was meant isn't asked first the next time.
fn turn_away(route: &Route, error: &PeerError) {
    let wrong =
        matches!(error, PeerError::Refused { refusal: Refusal::Cell | Refusal::Recipient | Refusal::Protocol, .. });
    if let Some(address) = route.progress.address().filter(|_| wrong) {
        route.connections.demote(address);
    }
}

fn client(route: Route) -> PeerServiceClient<Route> {
    PeerServiceClient::new(route).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
}

fn request<T>(metadata: MetadataMap, message: T) -> Request<T> {
    Request::from_parts(metadata, Extensions::new(), message)
}

/// A call is refused before it is sent if it is larger than peers take.
fn too_large(call: &Call) -> Option<Refused> {
    match call {
        Call::Vote(message) => faults::too_large(message),
        Call::TransferLeader(message) => faults::too_large(message),
        Call::Propose(message) => faults::too_large(message),
        Call::ReadIndex(message) => faults::too_large(message),
        Call::Describe(message) => faults::too_large(message),
        Call::Change(message) => faults::too_large(message),
        Call::GetCheckReport(message) => faults::too_large(message),
    }
}

fn answers<T: Send + 'static>(response: Response<Streaming<T>>, fault: Fault) -> Answers<T> {
    let answers = response.into_inner().map(|answer| answer.map_err(|status: Status| refusals::error(&status)));
    faults::answers(answers.boxed(), fault)
}

async fn dispatch(route: Route, metadata: MetadataMap, call: Call) -> Result<Answer, Status> {
    let mut client = client(route);
    Ok(match call {
        Call::Vote(message) => Answer::Vote(client.vote(request(metadata, message)).await?.into_inner()),
        Call::TransferLeader(message) => {
            Answer::TransferLeader(client.transfer_leader(request(metadata, message)).await?.into_inner())
        }
        Call::Propose(message) => Answer::Propose(client.propose(request(metadata, message)).await?.into_inner()),
        Call::ReadIndex(message) => {
            Answer::ReadIndex(client.read_index(request(metadata, message)).await?.into_inner())
        }
        Call::Describe(message) => {
            Answer::Describe(Box::new(client.describe(request(metadata, message)).await?.into_inner()))
        }
        Call::Change(message) => Answer::Change(client.change(request(metadata, message)).await?.into_inner()),
        Call::GetCheckReport(message) => {
            Answer::GetCheckReport(client.get_check_report(request(metadata, message)).await?.into_inner())
        }
    })
}
