//! The main port: the services under their layers, for gRPC and, over HTTP/1.1 too, gRPC-Web.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tonic_web::GrpcWebLayer;
use tower::ServiceBuilder;

use super::{
    layers::{count::CountLayer, deadline::DeadlineLayer, refusal, shed::ShedLayer, trace::Sampler, web},
    metrics::Methods,
};
use crate::config::Limits;

/// A silent connection is asked after this long whether it is still there …
const KEEPALIVE: Duration = Duration::from_secs(30);
/// … and closed if it doesn't answer within this.
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);

/// Serves until `stop` is done, and then until every connection has ended. `max_connection_age` is
/// left alone: tonic cuts streams with it.
pub(super) fn serve(
    listener: TcpListener,
    routes: Routes,
    limits: &Limits,
    methods: Methods,
    sampler: Option<Sampler>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<Result<(), tonic::transport::Error>> {
    let layers = ServiceBuilder::new()
        .layer(web::CrossOriginLayer::new())
        .layer(GrpcWebLayer::new())
        .layer(CountLayer { methods: Arc::new(methods), sampler })
        .layer(ShedLayer::new(limits.concurrent_requests))
        .map_response(refusal::reworded)
        .layer(DeadlineLayer);
    let server = Server::builder()
        .accept_http1(true)
        .max_concurrent_streams(limits.streams_per_connection)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
        .layer(layers)
        .add_routes(routes.prepare())
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stop);
    tokio::spawn(server)
}
