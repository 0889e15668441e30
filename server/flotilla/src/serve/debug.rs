//! `/debug` on the second port, if the config asks for it: how the server is, and what it logs.
//!
//! Nothing here reads or writes anybody's data.

use std::sync::{Arc, OnceLock};

use axum::{Router, extract::State, routing::get};
use flotilla_replica::Replica;
use http::{StatusCode, header};
use serde_json::json;

use super::health::Health;
use crate::log_control::log_control;

/// What the pages tell of. The replica is there when the server has opened it.
#[derive(Clone)]
pub(super) struct Debug {
    pub(super) health: Health,
    pub(super) replica: Arc<OnceLock<Replica>>,
}

/// The pages.
pub(super) fn pages(debug: Debug) -> Router {
    Router::new()
        .route("/debug/status", get(status).with_state(debug))
        .route("/debug/log", get(directives).put(set_directives))
}

async fn status(State(debug): State<Debug>) -> (StatusCode, [(header::HeaderName, &'static str); 1], String) {
    let phase = debug.health.phase().name();
    let (code, document) = match debug.replica.get() {
        None => (StatusCode::SERVICE_UNAVAILABLE, json!({ "phase": phase })),
        Some(replica) => (StatusCode::OK, describe(replica, phase)),
    };
    (code, [(header::CONTENT_TYPE, "application/json")], format!("{document:#}\n"))
}

fn describe(replica: &Replica, phase: &str) -> serde_json::Value {
    let (status, sizes) = (replica.status(), replica.sizes());
    json!({
        "phase": phase,
        "version": env!("CARGO_PKG_VERSION"),
        "cell": status.cell,
        "history": status.history,
        "server": status.server,
        "incarnation": status.incarnation,
        "leader": status.leader,
        "term": status.term,
        "log": {
            "last_index": status.last_log_index,
            "applied_index": status.applied_index,
            "failed": status.failed,
            "last_sync_seconds": sizes.last_sync.as_secs_f64(),
        },
        "feed": {
            "revision": status.revision,
            "floor": status.floor,
            "bytes": sizes.feed_bytes,
            "readers": sizes.feed_readers,
        },
        "window": { "requests": sizes.remembered_requests },
        "store": { "rows": sizes.rows, "bytes": sizes.store_bytes },
        "snapshot": { "bytes": sizes.snapshot_bytes },
        "backups": sizes.backups,
    })
}

async fn directives() -> (StatusCode, String) {
    match log_control() {
        Some(control) => (StatusCode::OK, format!("{}\n", control.directives())),
        None => (StatusCode::SERVICE_UNAVAILABLE, "this process does not log\n".to_owned()),
    }
}

async fn set_directives(body: String) -> (StatusCode, String) {
    let Some(control) = log_control() else { return directives().await };
    let former = control.directives();
    match control.set(body.trim()) {
        Ok(()) => {
            tracing::info!(former, directives = control.directives(), "what is logged was changed");
            directives().await
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}
