//! Lets a page of any origin call the server: it is the caller's identity that will protect data,
//! not the page's address.

use std::time::Duration;

use http::{HeaderName, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

const ALLOWED: [&str; 10] = [
    "flotilla-user",
    "flotilla-device",
    "flotilla-consistency",
    "flotilla-max-lag",
    "grpc-timeout",
    "grpc-accept-encoding",
    "x-grpc-web",
    "x-user-agent",
    "te",
    "authorization",
];

const EXPOSED: [&str; 5] =
    ["grpc-status", "grpc-message", "grpc-status-details-bin", "flotilla-revision", "flotilla-server"];

/// Answers preflights, and marks what a page may read.
pub(in super::super) fn cors() -> CorsLayer {
    let allowed = ALLOWED.iter().copied().map(HeaderName::from_static).chain([header::CONTENT_TYPE]);
    CorsLayer::new()
        .allow_origin(AllowOrigin::any())
        .allow_methods([Method::POST, Method::GET])
        .allow_headers(allowed.collect::<Vec<_>>())
        .expose_headers(EXPOSED.map(HeaderName::from_static))
        .max_age(Duration::from_hours(24))
}
