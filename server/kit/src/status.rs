//! The one table from reasons to gRPC status codes, and what travels beside
//! the code: `google.rpc` details that programs read.

use std::{collections::HashMap, time::Duration};

use flotilla_proto::{ERROR_DOMAIN, errors::v1::Reason};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::Error;

/// Details travel in the headers of an answer, of which clients take 8 KiB. So
/// there is a bound to what a request with a thousand faults is told.
const MAX_VIOLATIONS: usize = 8;
/// Bytes of a sentence.
const MAX_TEXT: usize = 512;
/// Bytes of a field's path, of an id.
const MAX_NAME: usize = 256;

/// The status code of a reason.
pub fn code(reason: Reason) -> Code {
    match reason {
        Reason::InvalidField | Reason::LimitExceeded | Reason::PageTokenMismatch | Reason::RequestIdReused => {
            Code::InvalidArgument
        }
        Reason::CallerMissing | Reason::SecretRefused => Code::Unauthenticated,
        Reason::NotMember => Code::PermissionDenied,
        Reason::UserNotFound
        | Reason::RecordNotFound
        | Reason::TableNotFound
        | Reason::ThreadNotFound
        | Reason::MemberNotFound
        | Reason::ServerNotFound => Code::NotFound,
        Reason::EmailTaken | Reason::RecordExists | Reason::MemberExists | Reason::ServerExists => Code::AlreadyExists,
        Reason::EtagStale | Reason::Conflict | Reason::DeviceTakenOver => Code::Aborted,
        Reason::MajorityAtRisk | Reason::NotVoter | Reason::AlreadyFormed | Reason::ServerUnsuitable => {
            Code::FailedPrecondition
        }
        Reason::BelowFloor | Reason::HistoryChanged | Reason::RevisionInFuture | Reason::SequenceInFuture => {
            Code::OutOfRange
        }
        Reason::Overloaded | Reason::DiskFull => Code::ResourceExhausted,
        Reason::DeadlineExpired => Code::DeadlineExceeded,
        Reason::NoLeader | Reason::Starting | Reason::ShuttingDown | Reason::LogFailed | Reason::TooStale => {
            Code::Unavailable
        }
        Reason::ServiceNotHere => Code::Unimplemented,
        Reason::Unspecified | Reason::Internal => Code::Internal,
    }
}

/// How long a client waits before it retries; none where a retry doesn't help.
pub fn retry_delay(reason: Reason) -> Option<Duration> {
    match reason {
        Reason::Overloaded => Some(Duration::from_millis(100)),
        Reason::NoLeader | Reason::TooStale => Some(Duration::from_millis(250)),
        Reason::Starting | Reason::ShuttingDown | Reason::LogFailed => Some(Duration::from_secs(1)),
        Reason::DiskFull => Some(Duration::from_secs(30)),
        _ => None,
    }
}

/// Half of it to one and a half: those who were refused together don't come back together.
fn jittered(delay: Duration) -> Duration {
    let chance = (ulid::Ulid::new().random() & 0xffff) as u32;
    delay / 2 + delay * chance / 0xffff
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let Some(reason) = error.reason() else {
            return Self::deadline_exceeded(error.to_string());
        };
        let metadata =
            error.metadata().into_iter().map(|(key, value)| (key.to_owned(), shortened(&value, 2 * MAX_NAME)));
        let mut details = ErrorDetails::with_error_info(reason.wire_name(), ERROR_DOMAIN, HashMap::from_iter(metadata));
        if let Some(delay) = retry_delay(reason) {
            details.set_retry_info(Some(jittered(delay)));
        }
        match &error {
            Error::InvalidFields(violations) => {
                for violation in violations.iter().take(MAX_VIOLATIONS) {
                    let (field, problem) = (&violation.field, &violation.problem);
                    details.add_bad_request_violation(shortened(field, MAX_NAME), shortened(problem, MAX_NAME));
                }
            }
            Error::Refused(refusal) => {
                if let Some((message_type, id)) = &refusal.resource {
                    details.set_resource_info(*message_type, shortened(id, 3 * MAX_NAME), "", "");
                }
            }
            Error::Internal(cause) => {
                // The caller gets a number to quote, and nothing of the inside.
                let incident = ulid::Ulid::new().to_string();
                tracing::error!(incident, error = %chain(cause.as_ref()), "a request failed for an internal reason");
                details.set_request_info(incident, "");
            }
            _ => {}
        }
        Self::with_error_details(code(reason), shortened(&error.to_string(), MAX_TEXT), details)
    }
}

/// The beginning of a text that is too long.
fn shortened(text: &str, bytes: usize) -> String {
    match text.len() <= bytes {
        true => text.to_owned(),
        false => format!("{}…", &text[..text.floor_char_boundary(bytes)]),
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use flotilla_store::InvalidTransaction;

    use super::*;
    use crate::{Refusal, fields::FieldViolation};

    const CONTRACT: &str =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto/flotilla/errors/v1/errors.proto"));

    fn code_name(code: Code) -> &'static str {
        match code {
            Code::InvalidArgument => "INVALID_ARGUMENT",
            Code::Unauthenticated => "UNAUTHENTICATED",
            Code::PermissionDenied => "PERMISSION_DENIED",
            Code::NotFound => "NOT_FOUND",
            Code::AlreadyExists => "ALREADY_EXISTS",
            Code::Aborted => "ABORTED",
            Code::FailedPrecondition => "FAILED_PRECONDITION",
            Code::OutOfRange => "OUT_OF_RANGE",
            Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Code::Unavailable => "UNAVAILABLE",
            Code::Unimplemented => "UNIMPLEMENTED",
            Code::Internal => "INTERNAL",
            _ => "a code that no reason has",
        }
    }

    /// Every reason of the contract with the first line of its comment.
    fn documented() -> Vec<(Reason, String)> {
        let mut rows = Vec::new();
        let mut comment: Option<String> = None;
        for line in CONTRACT.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("// ") {
                comment.get_or_insert_with(|| text.to_owned());
            } else if let Some((name, _)) = line.split_once(" = ").filter(|(name, _)| name.starts_with("REASON_")) {
                let reason = Reason::from_str_name(name).expect("generated code knows every reason");
                rows.push((reason, comment.take().expect("every reason has a comment")));
            } else {
                comment = None;
            }
        }
        rows
    }

    #[test]
    fn every_reason_has_the_code_that_the_contract_says() {
        let rows = documented();
        assert_eq!(rows.len(), 39, "reasons of the contract and the unspecified one");
        for (reason, comment) in rows.iter().filter(|(reason, _)| *reason != Reason::Unspecified) {
            let name = code_name(code(*reason));
            let documented = comment.split(['.', ',']).next().expect("a first word");
            assert_eq!(documented, name, "the code of {}", reason.wire_name());
        }
    }

    #[test]
    fn reasons_that_pass_by_themselves_say_when_to_retry() {
        for (reason, _) in documented() {
            let passing = matches!(code(reason), Code::Unavailable | Code::ResourceExhausted);
            assert_eq!(retry_delay(reason).is_some(), passing, "{}", reason.wire_name());
        }
    }

    #[test]
    fn those_who_are_refused_together_are_asked_back_at_different_times() {
        let delay = || {
            let status = Status::from(Error::Overloaded { waiting: 9 });
            status.get_error_details().retry_info().and_then(|info| info.retry_delay).expect("a delay")
        };
        let delays: Vec<Duration> = (0..50).map(|_| delay()).collect();
        assert!(delays.iter().all(|delay| (50..=150).contains(&delay.as_millis())), "{delays:?}");
        assert!(delays.iter().any(|delay| *delay != delays[0]));
    }

    #[test]
    fn an_error_travels_with_its_reason_and_metadata() {
        let below = Status::from(Error::BelowFloor { wanted: 3, floor: 40 });
        let details = below.get_error_details();
        let info = details.error_info().expect("an ErrorInfo");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("BELOW_FLOOR", "flotilla.dev"));
        assert_eq!(info.metadata["floor"], "40");
        assert!(below.message().contains("starts at 40"), "{}", below.message());
    }

    #[test]
    fn field_violations_travel_as_a_bad_request() {
        let violations = vec![FieldViolation::new("user.email", "is empty"), FieldViolation::new("page_size", "is -1")];
        let status = Status::from(Error::InvalidFields(violations));
        let details = status.get_error_details();
        let bad_request = details.bad_request().expect("a BadRequest");
        let fields: Vec<_> = bad_request.field_violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["user.email", "page_size"]);
        assert_eq!(status.message(), "user.email is empty; page_size is -1");
    }

    #[test]
    fn what_travels_is_bounded_however_much_is_wrong() {
        let violation = |number: usize| FieldViolation::new(format!("operations[{number}]"), "é".repeat(100_000));
        let status = Status::from(Error::InvalidFields((0..1_000).map(violation).collect()));
        let details = status.get_error_details();
        let violations = &details.bad_request().expect("a BadRequest").field_violations;
        assert_eq!(violations.len(), MAX_VIOLATIONS);
        assert!(violations[0].description.ends_with('…'), "cut between characters");
        assert!(status.message().len() + status.details().len() < 6_000, "fits into 8 KiB, also as base64");
    }

    #[test]
    fn a_refusal_travels_with_the_resource_it_is_about() {
        let refusal = Refusal::new(Reason::UserNotFound, "no user has the id 1").with("user_id", 1).about("User", "1");
        let status = Status::from(Error::from(refusal));
        let details = status.get_error_details();
        let resource = details.resource_info().expect("a ResourceInfo");
        assert_eq!((resource.resource_type.as_str(), resource.resource_name.as_str()), ("User", "1"));
        assert_eq!(details.error_info().expect("an ErrorInfo").metadata["user_id"], "1");
        assert_eq!(status.code(), Code::NotFound);
    }

    #[test]
    fn an_unknown_outcome_has_a_code_and_no_reason() {
        let status = Status::from(Error::OutcomeUnknown);
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(status.get_error_details().error_info().is_none());
    }

    #[test]
    fn an_internal_error_tells_the_caller_a_number_and_nothing_else() {
        let status = Status::from(Error::internal("the page of sled at offset 4096 is torn"));
        assert_eq!((status.code(), status.message()), (Code::Internal, "an internal error"));
        let details = status.get_error_details();
        assert_eq!(details.request_info().expect("a RequestInfo").request_id.len(), 26);
    }

    #[test]
    fn a_transaction_over_a_limit_names_the_limit() {
        let status = Status::from(Error::from(InvalidTransaction::TooLarge { bytes: 5_000_000 }));
        let details = status.get_error_details();
        let metadata = &details.error_info().expect("an ErrorInfo").metadata;
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!((metadata["limit"].as_str(), metadata["max"].as_str()), ("transaction_bytes", "4194304"));
        assert_eq!(metadata["actual"], "5000000");
    }
}
