//! What a call that failed means for a person, and what to do next.

use std::{collections::BTreeMap, error::Error, fmt, time::Duration};

use flotilla_proto::errors::v1::Reason;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The endpoint can't be called at all.
    #[error("the endpoint {endpoint:?} can't be used: {reason}")]
    Endpoint {
        /// As given.
        endpoint: String,
        /// What is wrong.
        reason: String,
    },
    /// A user's or device's name can't be sent.
    #[error("--{what} {name:?}: a name is printable ASCII")]
    Name {
        /// The flag.
        what: &'static str,
        /// As given.
        name: String,
    },
    /// Nobody answers.
    #[error("cannot reach {endpoint}: {reason}; is the server running? start one with `flotilla dev`")]
    Unreachable {
        /// The server.
        endpoint: String,
        /// The system's reason.
        reason: String,
    },
    /// No answer in time.
    #[error(
        "no answer from {endpoint} within {after:?}; a write may have happened, which reading tells. \
         Wait longer with --timeout"
    )]
    TimedOut {
        /// The server.
        endpoint: String,
        /// How long was waited.
        after: Duration,
    },
    /// The server said no.
    #[error("{0}")]
    Refused(Box<Refusal>),
}

impl CallError {
    /// What a status means.
    pub(super) fn from_status(endpoint: &str, status: &Status) -> Self {
        match status.source() {
            // Not from a server: the connection failed under the call.
            Some(source) if status.code() == Code::Unavailable => {
                Self::Unreachable { endpoint: endpoint.to_owned(), reason: root_cause(source) }
            }
            _ => Self::Refused(Box::new(Refusal::from_status(status))),
        }
    }

    /// The server said no.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

/// A server's no: its status and what `google.rpc` details came with it.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The status code.
    pub code: Code,
    /// What the server says.
    pub message: String,
    /// The reason, as it travels: `EMAIL_TAKEN`.
    pub reason: Option<String>,
    /// What belongs to the reason.
    pub metadata: BTreeMap<String, String>,
    /// Fields and what is wrong with them.
    pub violations: Vec<(String, String)>,
}

impl Refusal {
    fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let violations = details.bad_request().map_or(&[][..], |bad| &bad.field_violations);
        Self {
            code: status.code(),
            message: status.message().to_owned(),
            reason: info.map(|info| info.reason.clone()),
            metadata: info.map(|info| info.metadata.clone().into_iter().collect()).unwrap_or_default(),
            violations: violations.iter().map(|v| (v.field.clone(), v.description.clone())).collect(),
        }
    }

    /// The reason, if this build knows it.
    pub fn known_reason(&self) -> Option<Reason> {
        self.reason.as_deref().and_then(Reason::from_wire_name)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = code_name(self.code);
        let message = match (self.known_reason(), self.message.as_str()) {
            // Its sentence is made of the violations, which come one by one below.
            (Some(Reason::InvalidField), _) if !self.violations.is_empty() => "the request was refused",
            (_, "") => "the server gave no reason",
            (_, message) => message,
        };
        write!(f, "{message} ({})", self.reason.as_deref().unwrap_or(code))?;
        for (field, description) in &self.violations {
            if !message.contains(description) {
                write!(f, "\n  {field}: {description}")?;
            }
        }
        match self.known_reason().and_then(advice) {
            Some(advice) => write!(f, "\n  try: {advice}"),
            None => Ok(()),
        }
    }
}

/// What a person can do at this command line; none where the server's sentence says it all.
fn advice(reason: Reason) -> Option<&'static str> {
    let advice = match reason {
        Reason::CallerMissing => "say who you are with --as USER (and --device DEVICE)",
        Reason::EmailTaken => "another address, or `flotilla users list --email ADDRESS` to see who has it",
        Reason::EtagStale => "read it again, decide again, and send the new --etag",
        Reason::UserNotFound => "`flotilla users list`, which shows the ids",
        Reason::RecordNotFound => "`flotilla records list TABLE`, or `flotilla records tables`",
        Reason::RecordExists => "leave out --create-only to write over it",
        Reason::RequestIdReused => "leave out --request-id, so that a new one is made",
        Reason::LogFailed => "look at the server's log and disk, then restart it",
        Reason::DeadlineExpired => "a longer --timeout",
        Reason::ServiceNotHere => "another --endpoint, or name the service in that server's config",
        Reason::Internal => "the server's log, which has the details",
        _ => return None,
    };
    Some(advice)
}

/// As the specification of gRPC writes it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The first cause of an error, in the system's words: "connection refused".
pub(super) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<std::io::Error>() {
        Some(io) if io.kind() == std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ERROR_DOMAIN;
    use tonic_types::ErrorDetails;

    use super::*;

    fn text(code: Code, message: &str, reason: &str, violation: (&str, &str)) -> String {
        let mut details = ErrorDetails::with_bad_request_violation(violation.0, violation.1);
        details.set_error_info(reason, ERROR_DOMAIN, std::collections::HashMap::new());
        CallError::from_status("http://x", &Status::with_error_details(code, message, details)).to_string()
    }

    #[test]
    fn a_refusal_names_the_fields_the_reason_and_what_to_do() {
        let text = text(Code::AlreadyExists, "another user has a@b.org", "EMAIL_TAKEN", ("user.email", "is taken"));
        assert_eq!(
            text,
            "another user has a@b.org (EMAIL_TAKEN)\n  user.email: is taken\n  try: another address, or `flotilla \
             users list --email ADDRESS` to see who has it"
        );
    }

    #[test]
    fn what_is_wrong_with_a_field_is_said_once() {
        let text = text(Code::InvalidArgument, "id is empty", "INVALID_FIELD", ("id", "is empty"));
        assert_eq!(text, "the request was refused (INVALID_FIELD)\n  id: is empty");
    }

    #[test]
    fn a_status_without_details_is_told_by_its_code() {
        let text = CallError::from_status("http://x", &Status::unimplemented("")).to_string();
        assert_eq!(text, "the server gave no reason (UNIMPLEMENTED)");
    }
}
