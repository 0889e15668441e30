//! What the server itself answers, before or instead of a service.

use flotilla_kit::{Error, Refusal};
use flotilla_proto::errors::v1::Reason;
use http::Response;
use tonic::{Code, Status, body::Body};

/// Too much is under way.
pub(super) fn overloaded(what: &str, bound: usize) -> Response<Body> {
    let message = format!("the server has {bound} {what}, which is its limit: try again in a moment");
    respond(Refusal::new(Reason::Overloaded, message))
}

/// The caller has more under way than others leave it.
pub(super) fn over_share(what: &str, held: usize, share: usize) -> Response<Body> {
    let message = format!(
        "this caller has {held} {what}, and while the server is busy its share is {share}: try again in a moment"
    );
    respond(Refusal::new(Reason::Overloaded, message))
}

/// The messages that are being worked on fill their memory.
pub(super) fn out_of_memory(bound: u64) -> Status {
    let message =
        format!("the messages in work have {bound} bytes, which is the server's limit: try again in a moment");
    Status::from(Error::from(Refusal::new(Reason::Overloaded, message)))
}

/// The metadata is larger than is read.
pub(super) fn headers_too_large(actual: u64, max: u64) -> Response<Body> {
    respond(Error::LimitExceeded { limit: "header_bytes", max, actual })
}

/// The deadline passed before anything was done.
pub(super) fn expired_before() -> Response<Body> {
    respond(Error::DeadlineExpired)
}

/// The deadline passed while a service was at it.
pub(super) fn expired_in_work() -> Response<Body> {
    respond(Error::OutcomeUnknown)
}

/// The server has not caught up with its cell yet.
pub(in super::super) fn starting() -> Response<Body> {
    let message = "the server is starting: it waits for its cell, or catches up with the log";
    respond(Refusal::new(Reason::Starting, message))
}

/// The config of this server doesn't name the service.
pub(in super::super) fn not_here(service: &str) -> Response<Body> {
    let message = format!("this server doesn't run {service}: its config names the services that it runs");
    respond(Refusal::new(Reason::ServiceNotHere, message).with("service", service))
}

/// tonic's refusal of a message over its limit, in our words; any other answer as it is.
pub(in super::super) fn reworded(response: Response<Body>) -> Response<Body> {
    let too_large = Status::from_header_map(response.headers()).filter(|status| status.code() == Code::OutOfRange);
    match too_large.and_then(|status| sizes(status.message())) {
        Some((actual, max)) => respond(Error::LimitExceeded { limit: "message_bytes", max, actual }),
        None => response,
    }
}

/// "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes".
fn sizes(message: &str) -> Option<(u64, u64)> {
    let sizes = message.strip_prefix("Error, decoded message length too large: found ")?.strip_suffix(" bytes")?;
    let (actual, max) = sizes.split_once(" bytes, the limit is: ")?;
    Some((actual.parse().ok()?, max.parse().ok()?))
}

fn respond(error: impl Into<Error>) -> Response<Body> {
    Status::from(error.into()).into_http()
}
