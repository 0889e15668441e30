//! What this service alone refuses.

use flotilla_kit::{Error, Refusal, etag};
use flotilla_proto::errors::v1::Reason;

const THREAD: &str = "flotilla.threads.v1.Thread";
const USER: &str = "flotilla.users.v1.User";

pub(crate) fn thread_not_found(id: &str) -> Error {
    let message = format!("no thread has the id {id}");
    Refusal::new(Reason::ThreadNotFound, message).with("thread_id", id).about(THREAD, id).into()
}

pub(crate) fn not_member(thread: &str, user: &str) -> Error {
    let message = format!("user {user} is not a member of thread {thread}: a member can add them");
    Refusal::new(Reason::NotMember, message).with("thread_id", thread).about(THREAD, thread).into()
}

pub(crate) fn member_exists(thread: &str, user: &str) -> Error {
    let message = format!("user {user} is a member of thread {thread} already");
    Refusal::new(Reason::MemberExists, message).with("thread_id", thread).with("user_id", user).into()
}

pub(crate) fn member_not_found(thread: &str, user: &str) -> Error {
    let message = format!("user {user} is not a member of thread {thread}");
    Refusal::new(Reason::MemberNotFound, message).with("thread_id", thread).with("user_id", user).into()
}

pub(crate) fn user_not_found(user: &str) -> Error {
    let message = format!("no user has the id {user}: it was deleted, or never was");
    Refusal::new(Reason::UserNotFound, message).with("user_id", user).about(USER, user).into()
}

pub(crate) fn stale(thread: &str, current: u64) -> Error {
    etag::stale(format!("thread {thread}"), Some(current)).about(THREAD, thread).into()
}

pub(crate) fn sequence_in_future(thread: &str, wanted: u64, last: u64) -> Error {
    Refusal::new(Reason::SequenceInFuture, in_future(thread, wanted, last))
        .with("thread_id", thread)
        .with("last_sequence", last)
        .into()
}

pub(crate) fn in_future(thread: &str, wanted: u64, last: u64) -> String {
    format!("sequence {wanted} of thread {thread} has not happened, the newest is {last}")
}

pub(crate) fn taken_over(user: &str, device: &str) -> Error {
    let message =
        format!("device {device} of user {user} has opened a newer stream, which took this one's place: use that one");
    Refusal::new(Reason::DeviceTakenOver, message).into()
}
