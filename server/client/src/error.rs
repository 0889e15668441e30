//! What a call that failed means for a person.

use std::{collections::BTreeMap, error::Error, fmt, time::Duration};

use flotilla_proto::errors::v1::Reason;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::retry::is_broken;

/// Why a call has no answer.
#[derive(Debug, Clone, thiserror::Error)]
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
    #[error("the {what} {name:?} can't be sent: only printable ASCII can")]
    Name {
        /// `user` or `device`.
        what: &'static str,
        /// As given.
        name: String,
    },
    /// Nobody answers.
    #[error("cannot reach {endpoint}: {reason}")]
    Unreachable {
        /// The server.
        endpoint: String,
        /// The system's reason.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer from {endpoint} within {after:?}; a write may have happened, which reading tells")]
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
    pub(crate) fn from_status(endpoint: &str, status: &Status) -> Self {
        match status.source() {
            // Not from a server: the connection failed under the call.
            Some(source) if is_broken(status) => {
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
        Ok(())
    }
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
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> String {
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
    fn a_refusal_names_the_fields_and_the_reason() {
        let text = text(Code::AlreadyExists, "another user has a@b.org", "EMAIL_TAKEN", ("user.email", "is taken"));
        assert_eq!(text, "another user has a@b.org (EMAIL_TAKEN)\n  user.email: is taken");
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
