//! Documents so deep that they can't even be decoded: decoding stops at 100
//! nested messages, before any rule can look at them, and says so as an
//! internal error. The caller can help it, so it is told.

use flotilla_kit::{Error, fields::FieldViolation};
use http::Response;
use tonic::{
    Code, Status,
    body::Body,
    service::{LayerExt, Layered},
};
use tower::util::{MapResponse, MapResponseLayer};

type Answer = Response<Body>;
type Explain = fn(Answer) -> Answer;

/// The service, with such documents refused as what they are.
pub(crate) fn refused<S>(service: S) -> Layered<MapResponse<S, Explain>, S> {
    let layer = MapResponseLayer::new(explained as Explain);
    layer.named_layer(service)
}

fn explained(answer: Answer) -> Answer {
    let status = Status::from_header_map(answer.headers());
    let undecoded =
        |status: &Status| status.code() == Code::Internal && status.message().contains("recursion limit reached");
    if !status.as_ref().is_some_and(undecoded) {
        return answer;
    }
    let problem = "is deeper than 32 levels of objects and lists";
    Status::from(Error::from(FieldViolation::new("document", problem))).into_http()
}
