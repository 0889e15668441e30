//! The requests, encoded by hand where a load makes many: ids and values are the same for all servers.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use bytes::{BufMut, Bytes, BytesMut};
use flotilla_proto::users::v1::{CreateUserRequest, User};
use prost::Message;
use prost_types::{Struct, Value, value::Kind};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::load::grpc::{Connection, DEFAULT_USER, framed};

/// Ids are uniform over so many.
pub(crate) const ID_SPACE: u32 = 1_000_000;
/// Of a value, and of an encoded document.
pub(crate) const VALUE_BYTES: usize = 128;
/// Operations of a BatchWrite.
pub(crate) const BATCH_ROWS: u32 = 100;
/// Coprime to the ID_SPACE, so that a batch names no id twice.
const STRIDE: u32 = 7_919;

pub(crate) const PUT_RECORD: &str = "flotilla.records.v1.RecordsService/PutRecord";
pub(crate) const GET_RECORD: &str = "flotilla.records.v1.RecordsService/GetRecord";
pub(crate) const LIST_RECORDS: &str = "flotilla.records.v1.RecordsService/ListRecords";
pub(crate) const BATCH_WRITE: &str = "flotilla.records.v1.RecordsService/BatchWrite";
pub(crate) const CREATE_USER: &str = "flotilla.users.v1.UsersService/CreateUser";
pub(crate) const GET_USER: &str = "flotilla.users.v1.UsersService/GetUser";
pub(crate) const LIST_USERS: &str = "flotilla.users.v1.UsersService/ListUsers";

const TABLE: &[u8] = b"bench";

/// An id's text, such as `k0001234`.
pub(crate) type Id = [u8; 8];

/// Ids, uniform and random; the same ones for the same slot in every run.
pub(crate) struct Ids(SmallRng);

impl Ids {
    pub(crate) fn random(slot: usize) -> Self {
        Self(SmallRng::seed_from_u64(slot as u64))
    }

    pub(crate) fn number(&mut self, below: u32) -> u32 {
        self.0.random_range(0..below)
    }

    pub(crate) fn next(&mut self) -> Id {
        id(self.number(ID_SPACE))
    }
}

/// The id's text.
pub(crate) fn id(mut number: u32) -> Id {
    let mut text = *b"k0000000";
    for digit in text[1..].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    text
}

/// The ids of the batch that begins with `first`, all different.
pub(crate) fn batch_ids(first: u32) -> impl Iterator<Item = u32> {
    (0..BATCH_ROWS).map(move |place| (first + place * STRIDE) % ID_SPACE)
}

/// A document whose encoding is 128 bytes.
pub(crate) fn document() -> Struct {
    let text = |text: String| Value { kind: Some(Kind::StringValue(text)) };
    let of = |padding: usize| Struct {
        fields: [
            ("length_m".to_owned(), Value { kind: Some(Kind::NumberValue(4.2)) }),
            ("note".to_owned(), text("n".repeat(padding))),
            ("owner".to_owned(), text("ada".to_owned())),
        ]
        .into(),
    };
    let missing = VALUE_BYTES - of(1).encoded_len();
    of(missing + 1)
}

/// Makes the requests of one kind that Flotilla gets.
#[derive(Clone)]
pub(crate) struct Flotilla {
    document: Bytes,
    operation: Bytes,
    operation_id_at: usize,
}

impl Flotilla {
    pub(crate) fn new() -> Self {
        let document: Bytes = document().encode_to_vec().into();
        let mut put = BytesMut::new();
        field(&mut put, 1, TABLE);
        let id_at = put.len() + 2;
        field(&mut put, 2, &id(0));
        field(&mut put, 3, &document);
        let mut kind = BytesMut::new();
        field(&mut kind, 1, &put);
        let mut operation = BytesMut::new();
        field(&mut operation, 1, &kind);
        let operation_id_at = operation.len() - put.len() + id_at;
        Self { document, operation: operation.freeze(), operation_id_at }
    }

    /// PutRecord.
    pub(crate) fn put(&self, id: Id) -> Bytes {
        framed(|request| {
            field(request, 1, TABLE);
            field(request, 2, &id);
            field(request, 3, &self.document);
            field(request, 6, &request_id());
        })
    }

    /// BatchWrite of 100 puts.
    pub(crate) fn batch(&self, ids: impl Iterator<Item = u32>) -> Bytes {
        framed(|request| {
            for number in ids {
                let begin = request.len();
                request.put_slice(&self.operation);
                let at = begin + self.operation_id_at;
                request[at..at + size_of::<Id>()].copy_from_slice(&id(number));
            }
            field(request, 2, &request_id());
        })
    }

    /// GetRecord.
    pub(crate) fn get(&self, id: Id) -> Bytes {
        framed(|request| {
            field(request, 1, TABLE);
            field(request, 2, &id);
        })
    }
}

/// CreateUser of the user with this number, who has a name and an address of their own.
pub(crate) fn create_user(number: u64) -> Bytes {
    let user = User {
        email: format!("ada.lovelace.{number:07}@example.org"),
        first_name: "Ada".to_owned(),
        last_name: format!("Lovelace {number:07}"),
        ..User::default()
    };
    let request_id = String::from_utf8_lossy(&request_id()).into_owned();
    framed(|buffer| {
        CreateUserRequest { user: Some(user), request_id }.encode(buffer).unwrap_or_default();
    })
}

/// GetUser of a ULID.
pub(crate) fn get_user(id: &[u8]) -> Bytes {
    framed(|request| field(request, 1, id))
}

/// ListRecords of one record of the table, which answers OK as soon as the server serves.
pub(crate) fn list_one() -> Bytes {
    framed(|request| {
        field(request, 1, TABLE);
        request.put_slice(&[2 << 3, 1]);
    })
}

/// One call on a connection of its own, within a second; the answer's message.
pub(crate) fn once(address: SocketAddr, method: &str, request: Bytes) -> Result<Bytes> {
    once_as(address, DEFAULT_USER, method, request)
}

/// The same on behalf of a user.
pub(crate) fn once_as(address: SocketAddr, user: &str, method: &str, request: Bytes) -> Result<Bytes> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let limit = Duration::from_secs(1);
    runtime.block_on(async {
        let call = async {
            let mut connection = Connection::open_as(address, user).await?;
            let uri = connection.uri(method)?;
            connection.call(&uri, request).await
        };
        tokio::time::timeout(limit, call).await.with_context(|| format!("{method} took over {limit:?}"))?
    })
}

/// As long as a ULID and never the same again: when this run began, and a count.
pub(crate) fn request_id() -> [u8; 26] {
    static BEGAN: LazyLock<u64> = LazyLock::new(|| {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        now.as_nanos() as u64
    });
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut number = *BEGAN + COUNT.fetch_add(1, Ordering::Relaxed);
    let mut text = *b"benchmark-0000000000000000";
    for digit in text[10..].iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
    text
}

/// A length-delimited field with a number below 16.
pub(crate) fn field(buffer: &mut BytesMut, number: u8, content: &[u8]) {
    buffer.put_u8(number << 3 | 2);
    // It fails only for want of room, and BytesMut grows.
    prost::encode_length_delimiter(content.len(), buffer).unwrap_or_default();
    buffer.put_slice(content);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use flotilla_proto::records::v1::{BatchWriteRequest, Operation, PutRecordRequest, operation};

    use super::*;

    #[test]
    fn a_document_is_128_bytes() {
        assert_eq!(document().encoded_len(), VALUE_BYTES);
    }

    #[test]
    fn a_put_by_hand_is_what_prost_reads() -> Result<()> {
        let request = PutRecordRequest::decode(&Flotilla::new().put(id(1_234))[5..])?;
        assert_eq!((request.table.as_str(), request.id.as_str()), ("bench", "k0001234"));
        assert_eq!(request.document, Some(document()));
        assert_eq!(request.request_id.len(), 26);
        Ok(())
    }

    #[test]
    fn a_batch_by_hand_holds_a_hundred_puts_of_different_records() -> Result<()> {
        let request = BatchWriteRequest::decode(&Flotilla::new().batch(batch_ids(999_999))[5..])?;
        let right = |operation: &Operation| match &operation.kind {
            Some(operation::Kind::Put(put)) if put.document == Some(document()) => Some(put.id.clone()),
            _ => None,
        };
        let ids: BTreeSet<String> = request.operations.iter().filter_map(right).collect();
        assert_eq!(ids.len(), BATCH_ROWS as usize);
        assert!(ids.contains("k0999999"));
        Ok(())
    }

    #[test]
    fn no_two_request_ids_are_the_same() {
        let ids: BTreeSet<_> = (0..1_000).map(|_| request_id()).collect();
        assert_eq!(ids.len(), 1_000);
    }
}
