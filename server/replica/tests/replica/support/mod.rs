//! What the tests of this crate share.
#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod faulty_disk;
pub(crate) mod model;
pub(crate) mod sim_clock;
pub(crate) mod sim_disk;
pub(crate) mod sim_network;

use std::{path::Path, time::Duration};

use flotilla_replica::{Options, Replica, request_key};
use flotilla_store::{Space, Transaction, TransactionBuilder};
use tokio::time::Instant;

pub(crate) const SPACE: Space = Space::new(1);
pub(crate) const TABLE: &str = "rows";

/// When a test gives up.
pub(crate) fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

pub(crate) fn options(directory: &Path) -> Options {
    Options { min_free_bytes: 0, max_waiting: 16_384, ..Options::new(directory) }
}

pub(crate) async fn open(directory: &Path) -> Replica {
    Replica::open(options(directory)).await.expect("a replica")
}

pub(crate) async fn stop(replica: Replica) {
    replica.shutdown().await.expect("a clean stop");
}

pub(crate) fn put(key: &str, value: &str) -> Transaction {
    builder(key, value).build()
}

/// A put that counts once, however often it is sent.
pub(crate) fn put_once(request: &str, key: &str, value: &str) -> Transaction {
    once(request, builder(key, value))
}

/// A transaction that counts once, however often it is sent.
pub(crate) fn once(request: &str, transaction: TransactionBuilder) -> Transaction {
    let fingerprint = xxhash(&format!("{:?}", transaction.clone().build()));
    let (key, answer) = (request_key("ada", "Put", request), format!("answer to {request}").into());
    transaction.request(flotilla_proto::storage::v1::Request { key, fingerprint, answer }).build()
}

pub(crate) fn row(replica: &Replica, key: &str) -> Option<String> {
    let row = replica.store().get(SPACE, TABLE, key.as_bytes()).expect("a read")?;
    Some(String::from_utf8_lossy(&row.value).into_owned())
}

fn builder(key: &str, value: &str) -> TransactionBuilder {
    TransactionBuilder::new(SPACE).put(TABLE, key.to_owned(), value.to_owned())
}

fn xxhash(text: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(text.as_bytes())
}
