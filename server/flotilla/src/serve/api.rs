//! The main port: the services under their layers, for gRPC and, over HTTP/1.1 too, gRPC-Web.

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use flotilla_peers::PeerServer;
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{service::Routes, transport::Server};
use tonic_web::GrpcWebLayer;
use tower::ServiceBuilder;

use super::{
    connections,
    layers::{
        admission::{AdmissionLayer, MethodKind},
        count::CountLayer,
        deadline::DeadlineLayer,
        peers::PeersLayer,
        ready::{Later, ReadyLayer},
        refusal,
        slow::SlowLog,
        trace::Sampler,
        web,
    },
    metrics::Methods,
};
use crate::config::Limits;

/// A silent connection is asked after this long whether it is still there …
const KEEPALIVE: Duration = Duration::from_secs(30);
/// … and closed if it doesn't answer within this.
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);

/// Bytes that a stream, and a connection, may send before they are taken.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// What the layers know of calls.
pub(super) struct Gate {
    /// The counters of each method.
    pub(super) methods: Arc<Methods>,
    /// What each method is to the server.
    pub(super) kinds: Arc<HashMap<String, MethodKind>>,
    /// Tells of slow ones.
    pub(super) slow: Arc<SlowLog>,
    /// Chooses which are traced; none: nothing is.
    pub(super) sampler: Option<Sampler>,
    /// Hears the other servers of the cell.
    pub(super) peers: PeerServer,
    /// What is served once the server is ready.
    pub(super) later: Later,
}

/// Serves until `stop` is done, and then until every connection has ended. `max_connection_age` is
/// left alone: tonic cuts streams with it.
pub(super) fn serve(
    listener: TcpListener,
    routes: Routes,
    limits: &Limits,
    gate: Gate,
    stop: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<Result<(), tonic::transport::Error>> {
    let layers = ServiceBuilder::new()
        .layer(PeersLayer { peers: gate.peers })
        .layer(web::CrossOriginLayer::new())
        .layer(GrpcWebLayer::new())
        .layer(CountLayer { methods: gate.methods, slow: gate.slow, sampler: gate.sampler })
        .layer(AdmissionLayer::new(limits, gate.kinds))
        .map_response(refusal::reworded)
        .layer(DeadlineLayer)
        .layer(ReadyLayer(gate.later));
    let header_bytes = u32::try_from(limits.header_size.bytes()).unwrap_or(u32::MAX);
    let connections = connections::accept(listener, connections::room_for(limits.connections));
    let server = Server::builder()
        .accept_http1(true)
        // As much as a peer across 30 ms sends of a snapshot before it hears that some was taken.
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(limits.streams_per_connection)
        // Up to twice the limit can be refused in gRPC's words; beyond it HTTP/2 refuses, with 431.
        .http2_max_header_list_size(header_bytes.saturating_mul(2))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
        .layer(layers)
        .add_routes(routes)
        .serve_with_incoming_shutdown(connections, stop);
    tokio::spawn(server)
}
