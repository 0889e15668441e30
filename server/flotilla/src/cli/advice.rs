//! What a person can do at this command line about an error of the client; nothing where its own
//! sentence says it all.

use flotilla_client::{CallError, SubscribeError};
use flotilla_proto::errors::v1::Reason;

/// An error, and what to try.
pub(super) fn told(error: &CallError) -> String {
    match error {
        CallError::Name { what, name } => {
            let flag = if *what == "user" { "as" } else { what };
            format!("--{flag} {name:?}: a name is printable ASCII")
        }
        CallError::Unreachable { .. } => format!("{error}; is the server running? start one with `flotilla dev`"),
        CallError::TimedOut { .. } => format!("{error}. Wait longer with --timeout"),
        CallError::Refused(refusal) => match refusal.known_reason().and_then(advice) {
            Some(advice) => format!("{error}\n  try: {advice}"),
            None => error.to_string(),
        },
        CallError::Endpoint { .. } => error.to_string(),
    }
}

/// Why a subscription is over, and what to try.
pub(super) fn told_of_subscription(error: &SubscribeError) -> String {
    match error {
        SubscribeError::Call(error) => told(error),
        SubscribeError::TakenOver { .. } => format!("{error}\n  try: --device NAME, another one for each terminal"),
        _ => error.to_string(),
    }
}

fn advice(reason: Reason) -> Option<&'static str> {
    let advice = match reason {
        Reason::CallerMissing => "say who you are with --as USER (and --device DEVICE)",
        Reason::EmailTaken => "another address, or `flotilla users list --email ADDRESS` to see who has it",
        Reason::EtagStale => "read it again, decide again, and send the new --etag",
        Reason::UserNotFound => "`flotilla users list`, which shows the ids",
        Reason::RecordNotFound => "`flotilla records list TABLE`, or `flotilla records tables`",
        Reason::RecordExists => "leave out --create-only to write over it",
        Reason::RequestIdReused => "leave out --request-id, so that a new one is made",
        Reason::ThreadNotFound => "`flotilla threads list`, which shows your threads and their ids",
        Reason::NotMember => "ask a member to run `flotilla threads add THREAD USER`, or --as one",
        Reason::MemberExists | Reason::MemberNotFound => "`flotilla threads members THREAD`",
        Reason::BelowFloor => "leave out --after, to begin with the oldest that is kept",
        Reason::SequenceInFuture => "`flotilla threads get THREAD`, which shows the newest sequence",
        Reason::ServerExists => "another number: `flotilla cluster status` shows those in use",
        Reason::ServerNotFound => "`flotilla cluster status`, which shows the cell's servers",
        Reason::ServerUnsuitable => {
            "start it with an empty data directory and the cell's name and secret, and give the address where the \
             others reach it"
        }
        Reason::SecretRefused => "the same `cluster.secret_file` on every server of the cell",
        Reason::MajorityAtRisk => "start or add servers first; `flotilla cluster status` shows which vote and answer",
        Reason::NotVoter => "`flotilla cluster status`, and a server that votes and has caught up",
        Reason::AlreadyFormed => "`flotilla cluster add` and `flotilla cluster remove` change a cell that is formed",
        Reason::NoLeader => "`flotilla cluster status`: more than half of the voters must be there",
        Reason::LogFailed => "look at the server's log and disk, then restart it",
        Reason::DeadlineExpired => "a longer --timeout",
        Reason::ServiceNotHere => "another --endpoint, or name the service in that server's config",
        Reason::Internal => "the server's log, which has the details",
        _ => return None,
    };
    Some(advice)
}

#[cfg(test)]
mod tests {
    use flotilla_client::Refusal;
    use tonic::Code;

    use super::*;

    fn refused(code: Code, message: &str, reason: Reason) -> CallError {
        let reason = Some(reason.wire_name().to_owned());
        let (metadata, violations) = Default::default();
        CallError::Refused(Box::new(Refusal { code, message: message.to_owned(), reason, metadata, violations }))
    }

    #[test]
    fn a_refusal_is_told_with_what_to_do() {
        let error = refused(Code::AlreadyExists, "another user has a@b.org", Reason::EmailTaken);
        assert_eq!(
            told(&error),
            "another user has a@b.org (EMAIL_TAKEN)\n  try: another address, or `flotilla users list --email \
             ADDRESS` to see who has it"
        );
    }

    #[test]
    fn a_name_that_cannot_be_sent_is_told_with_its_flag() {
        let error = CallError::Name { what: "user", name: "ë".to_owned() };
        assert_eq!(told(&error), "--as \"ë\": a name is printable ASCII");
    }
}
