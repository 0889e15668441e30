//! A record as it is stored, and as it is answered. The row has revision and
//! times already, and table and key name it, so its value is the encoded
//! document and nothing else.

use flotilla_kit::{Committed, Error, Row, etag, time};
use flotilla_proto::records::v1::Record;
use prost::Message;
use prost_types::Struct;

/// The record that a row holds.
pub(crate) fn decode(table: &str, key: &[u8], row: &Row) -> Result<Record, Error> {
    Ok(Record {
        table: table.to_owned(),
        id: std::str::from_utf8(key).map_err(Error::internal)?.to_owned(),
        document: Some(Struct::decode(row.value.clone()).map_err(Error::internal)?),
        create_time: Some(time::timestamp(row.create_time)),
        update_time: Some(time::timestamp(row.update_time)),
        etag: etag::of(row.revision),
    })
}

/// The record that a transaction has written by its first operation.
pub(crate) fn written(table: String, id: String, document: Struct, committed: &Committed) -> Record {
    let age = committed.results.first().copied().unwrap_or(0);
    Record {
        table,
        id,
        document: Some(document),
        create_time: Some(time::timestamp(committed.time.saturating_sub(age))),
        update_time: Some(time::timestamp(committed.time)),
        etag: etag::of(committed.revision),
    }
}
