//! What the tests of this crate share.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::{path::Path, time::Duration};

use flotilla_replica::{Options, Replica, request_key};
use flotilla_store::{Space, Transaction, TransactionBuilder};
use tokio::time::Instant;

pub const SPACE: Space = Space::new(1);
pub const TABLE: &str = "rows";

/// When a test gives up.
pub fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

pub fn options(directory: &Path) -> Options {
    Options { min_free_bytes: 0, ..Options::new(directory) }
}

pub async fn open(directory: &Path) -> Replica {
    Replica::open(options(directory)).await.expect("a replica")
}

pub fn put(key: &str, value: &str) -> Transaction {
    builder(key, value).build()
}

/// A put that counts once, however often it is sent.
pub fn put_once(request: &str, key: &str, value: &str) -> Transaction {
    let request = flotilla_proto::storage::v1::Request {
        key: request_key("ada", "Put", request),
        fingerprint: xxhash(&[key, value].concat()),
        answer: format!("answer to {request}").into(),
    };
    builder(key, value).request(request).build()
}

pub fn row(replica: &Replica, key: &str) -> Option<String> {
    let row = replica.store().get(SPACE, TABLE, key.as_bytes()).expect("a read")?;
    Some(String::from_utf8_lossy(&row.value).into_owned())
}

fn builder(key: &str, value: &str) -> TransactionBuilder {
    TransactionBuilder::new(SPACE).put(TABLE, key.to_owned(), value.to_owned())
}

fn xxhash(text: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(text.as_bytes())
}
