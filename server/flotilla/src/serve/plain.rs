//! The second port, plaintext and without limits: health for gRPC and for kubelets, and metrics.
//!
//! Nothing here reads or writes data, so it may listen where `listen` may not.

use std::{future::Future, time::Duration};

use axum::{Router, extract::State, routing::get};
use http::{StatusCode, header};
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{
    service::RoutesBuilder,
    transport::{Server, server::TcpIncoming},
};

use super::{
    debug::{self, Debug},
    health::{Health, Phase},
    metrics::Metrics,
};

const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);

/// Serves until `stop` is done.
pub(super) fn serve(
    listener: TcpListener,
    health: &Health,
    metrics: &Metrics,
    debug: Option<Debug>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<Result<(), tonic::transport::Error>> {
    let pages = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready).with_state(health.clone()))
        .route("/metrics", get(scrape).with_state((metrics.clone(), health.clone())));
    let pages = match debug {
        Some(debug) => pages.merge(debug::pages(debug)),
        None => pages,
    };
    let mut routes = RoutesBuilder::from(pages);
    routes.add_service(health.service(Phase::Stopped));
    let server = Server::builder()
        .accept_http1(true)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
        .add_routes(routes.routes())
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stop);
    tokio::spawn(server)
}

async fn ready(State(health): State<Health>) -> (StatusCode, String) {
    let phase = health.phase();
    let code = match phase {
        Phase::Serving => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, format!("{}\n", phase.name()))
}

async fn scrape(
    State((metrics, health)): State<(Metrics, Health)>,
) -> Result<([(header::HeaderName, &'static str); 1], String), StatusCode> {
    let ready = health.phase() == Phase::Serving;
    // It looks at the disk.
    let page = tokio::task::spawn_blocking(move || metrics.render(ready)).await;
    let page = page.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, openmetrics)], page))
}
