//! Request ids: why a retry counts once and gets its first answer.
//!
//! The transaction of a request carries the caller's request id, hashed with
//! caller and method; the log remembers it for a while. A retry is recognised
//! where transactions are applied, before their conditions are looked at, so
//! that nothing a service has read in between can refuse it.

use bytes::{BufMut, Bytes, BytesMut};
use flotilla_proto::storage::v1::Request;
use flotilla_replica::{Change, request_key};
use flotilla_store::limits;
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

use crate::{Call, fields::FieldViolation};

/// Bytes of a request id.
const MAX_ID: usize = 128;
/// Bytes of an answer that a service may keep for retries.
pub const MAX_ANSWER: usize = limits::MAX_ANSWER - MAX_ID - 1;

/// What a caller wants to happen once, however often it asks.
#[derive(Debug, Clone)]
pub struct Intent {
    id: String,
    key: Bytes,
    fingerprint: u64,
}

impl Intent {
    /// The intent behind a request. `body` is the request with its id taken
    /// out, or a hash of it: the same id with another body is an error.
    ///
    /// An id is required: the methods are declared idempotent, so proxies and
    /// clients retry them, and without an id a retry would count again.
    ///
    /// # Errors
    /// If the id is missing, too long, or not printable ASCII.
    pub fn new(call: &Call, id: String, body: Fingerprint) -> Result<Self, FieldViolation> {
        if id.is_empty() {
            let problem = "is missing: make a new ULID for each request, and send the same again with a retry";
            return Err(FieldViolation::new("request_id", problem));
        }
        if id.len() > MAX_ID || !id.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            let problem = format!("must be 1 to {MAX_ID} printable ASCII characters, such as a ULID");
            return Err(FieldViolation::new("request_id", problem));
        }
        let key = request_key(call.user(), call.method(), &id);
        Ok(Self { id, key, fingerprint: body.0 })
    }

    /// The intent of a request message whose id was taken out.
    ///
    /// # Errors
    /// As [`Intent::new`].
    pub fn of(call: &Call, id: String, body: &impl Message) -> Result<Self, FieldViolation> {
        Self::new(call, id, Fingerprint::of(&body.encode_to_vec()))
    }

    /// What a transaction carries, with the answer that a retry gets.
    pub(crate) fn to_storage(&self, answer: &[u8]) -> Request {
        // The id goes first: watchers recognise their own changes by it.
        let mut envelope = BytesMut::with_capacity(1 + self.id.len() + answer.len());
        envelope.put_u8(self.id.len() as u8);
        envelope.put_slice(self.id.as_bytes());
        envelope.put_slice(answer);
        Request { key: self.key.clone(), fingerprint: self.fingerprint, answer: envelope.freeze() }
    }
}

/// A hash of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// The hash of an encoded message. Maps encode in the order of their keys,
    /// so equal messages have equal hashes.
    pub fn of(encoded: &[u8]) -> Self {
        Self(xxh3_64(encoded))
    }

    /// Takes another part of the body in.
    #[must_use]
    pub fn and(self, part: &[u8]) -> Self {
        let both = [self.0.to_be_bytes(), xxh3_64(part).to_be_bytes()];
        Self(xxh3_64(both.as_flattened()))
    }
}

/// The id of the request that made a change; empty if it had none.
pub fn id_of(change: &Change) -> &str {
    let envelope = change.request.as_ref().map(|request| &request.answer[..]).unwrap_or_default();
    split(envelope).0
}

/// A service's answer, without what [`Intent::to_storage`] put before it.
pub(crate) fn answer_of(envelope: &Bytes) -> Bytes {
    let (_, answer) = split(envelope);
    envelope.slice_ref(answer)
}

fn split(envelope: &[u8]) -> (&str, &[u8]) {
    let parts = envelope.split_first().and_then(|(&length, rest)| rest.split_at_checked(usize::from(length)));
    let (id, answer) = parts.unwrap_or_default();
    (std::str::from_utf8(id).unwrap_or_default(), answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call {
        Call::of("Create", tonic::Request::new(())).expect("a call").0
    }

    fn intent(id: &str, body: &str) -> Intent {
        Intent::of(&call(), id.into(), &body.to_owned()).expect("an intent")
    }

    #[test]
    fn an_answer_and_its_request_id_are_told_apart_again() {
        let request = intent("r-1", "body").to_storage(b"answer");
        assert_eq!(answer_of(&request.answer), "answer");
        let change = Change { request: Some(request), ..Change::default() };
        assert_eq!(id_of(&change), "r-1");
        assert_eq!(id_of(&Change::default()), "");
    }

    #[test]
    fn the_same_id_with_another_body_has_another_fingerprint() {
        let [first, retry, other] = ["a", "a", "b"].map(|body| intent("1", body).to_storage(b""));
        assert_eq!(first, retry);
        assert_eq!(first.key, other.key);
        assert_ne!(first.fingerprint, other.fingerprint);
        assert_ne!(Fingerprint::of(b"ab").and(b"c"), Fingerprint::of(b"a").and(b"bc"));
    }

    #[test]
    fn a_request_id_is_there_bounded_and_printable() {
        for id in [String::new(), "x".repeat(129), "tab\t".into(), "é".into()] {
            let violation = Intent::of(&call(), id, &()).expect_err("refused");
            assert_eq!(violation.field, "request_id");
        }
        assert!(Intent::of(&call(), "x".repeat(128), &()).is_ok());
    }

    #[test]
    fn the_longest_answer_fits_with_the_longest_id() {
        let request = intent(&"x".repeat(MAX_ID), "").to_storage(&[0; MAX_ANSWER]);
        assert_eq!(request.answer.len(), limits::MAX_ANSWER);
    }
}
