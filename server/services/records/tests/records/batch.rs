//! Many writes in one transaction.

use flotilla_proto::records::v1::{
    BatchWriteRequest, Operation,
    operation::{Delete, Kind, Put},
};
use prost_types::{Struct, value};
use tonic::Code;

use crate::server::{Server, document, fields, metadata, reason, unique, with};

fn put(id: &str, number: f64) -> Put {
    Put { table: "boats".into(), id: id.into(), document: Some(document(number)), ..Put::default() }
}

fn delete(id: &str) -> Delete {
    Delete { table: "boats".into(), id: id.into(), ..Delete::default() }
}

fn batch(operations: impl IntoIterator<Item = Kind>) -> BatchWriteRequest {
    let operations = operations.into_iter().map(|kind| Operation { kind: Some(kind) }).collect();
    BatchWriteRequest { operations, request_id: unique() }
}

#[tokio::test]
async fn a_batch_happens_as_a_whole_at_one_revision() {
    let server = Server::start().await;
    server.put("boats", "old", 0.0).await;
    let request = batch([Kind::Put(put("a", 1.0)), Kind::Delete(delete("old")), Kind::Put(put("b", 2.0))]);
    let written = server.client().batch_write(request.clone()).await.expect("a batch").into_inner();
    assert_eq!(written.revision, 2);
    for id in ["a", "b"] {
        let record = server.get("boats", id).await.expect("a record");
        assert_eq!((&record.etag, record.update_time), (&written.etag, written.time));
    }
    assert_eq!(reason(&server.get("boats", "old").await.expect_err("gone")), "RECORD_NOT_FOUND");
    let retry = server.client().batch_write(request).await.expect("the first answer").into_inner();
    assert_eq!(retry, written);
}

#[tokio::test]
async fn a_batch_that_only_deletes_has_no_etag() {
    let server = Server::start().await;
    server.put("boats", "old", 0.0).await;
    let written =
        server.client().batch_write(batch([Kind::Delete(delete("old"))])).await.expect("a batch").into_inner();
    assert_eq!(written.etag, "");
}

#[tokio::test]
async fn the_first_operation_that_cannot_be_done_is_named_and_nothing_happens() {
    let server = Server::start().await;
    let there = server.put("boats", "there", 0.0).await;
    let create = Kind::Put(Put { create_only: true, ..put("there", 1.0) });
    let stale = Kind::Put(Put { etag: "fff".into(), ..put("there", 1.0) });
    let missing = Kind::Delete(delete("missing"));
    let lenient = Kind::Delete(Delete { etag: "fff".into(), allow_missing: true, ..delete("there") });
    let harmless = Kind::Delete(Delete { etag: "fff".into(), allow_missing: true, ..delete("missing") });
    for (refused, expected) in
        [(create, "RECORD_EXISTS"), (stale, "ETAG_STALE"), (missing, "RECORD_NOT_FOUND"), (lenient, "ETAG_STALE")]
    {
        let fine = Kind::Put(Put { create_only: true, ..put("new", 1.0) });
        let unconditional = Kind::Put(put("other", 1.0));
        let request = match &refused {
            Kind::Delete(delete) if delete.id == "missing" => batch([unconditional, fine, refused]),
            _ => batch([unconditional, harmless.clone(), refused]),
        };
        let error = server.client().batch_write(request).await.expect_err("it can't be done");
        assert_eq!((reason(&error).as_str(), metadata(&error, "operation").as_str()), (expected, "2"), "{error:?}");
    }
    assert_eq!(server.get("boats", "there").await.expect("the record"), there);
    assert!(server.get("boats", "new").await.is_err() && server.get("boats", "other").await.is_err());
}

#[tokio::test]
async fn two_operations_on_one_record_are_refused() {
    let server = Server::start().await;
    let twice = batch([Kind::Put(put("a", 1.0)), Kind::Put(put("b", 1.0)), Kind::Delete(delete("a"))]);
    let refused = server.client().batch_write(twice).await.expect_err("two on one");
    assert_eq!((refused.code(), fields(&refused)), (Code::InvalidArgument, vec!["operations[2].delete.id".to_owned()]));
    assert!(refused.message().contains("operations[0]"), "{}", refused.message());
}

#[tokio::test]
async fn a_thousand_operations_are_possible_and_one_more_is_not() {
    let server = Server::start().await;
    let of = |count: usize| batch((0..count).map(|number| Kind::Put(put(&format!("{number:04}"), 1.0))));
    server.client().batch_write(of(1_000)).await.expect("a thousand");
    let refused = server.client().batch_write(of(1_001)).await.expect_err("one more");
    assert_eq!((refused.code(), reason(&refused)), (Code::InvalidArgument, "LIMIT_EXCEEDED".into()));
    let limit = ["limit", "max", "actual"].map(|key| metadata(&refused, key));
    assert_eq!(limit, ["operations", "1000", "1001"]);
}

#[tokio::test]
async fn documents_of_a_batch_are_as_deep_as_any() {
    let server = Server::start().await;
    let objects = |levels| (1..levels).fold(Struct::default(), |inner, _| with("o", value::Kind::StructValue(inner)));
    let of = |levels| batch([Kind::Put(Put { document: Some(objects(levels)), ..put("a", 0.0) })]);
    server.client().batch_write(of(32)).await.expect("32 levels");
    let refused = server.client().batch_write(of(33)).await.expect_err("33 levels");
    assert_eq!((refused.code(), reason(&refused)), (Code::InvalidArgument, "INVALID_FIELD".into()), "{refused:?}");
}

#[tokio::test]
async fn what_is_wrong_with_an_operation_is_told_by_its_path() {
    let server = Server::start().await;
    let nan = Put { document: Some(with("x", value::Kind::NumberValue(f64::NAN))), ..put("a", 0.0) };
    let mut request = batch([Kind::Put(nan), Kind::Put(put("b/c", 1.0)), Kind::Delete(Delete::default())]);
    request.operations.push(Operation { kind: None });
    let refused = server.client().batch_write(request).await.expect_err("bad");
    let expected = ["operations[0].put.document.x", "operations[1].put.id", "operations[2].delete.table"];
    assert_eq!(fields(&refused)[..3], expected);
    assert_eq!(fields(&refused)[3..], ["operations[2].delete.id", "operations[3]"]);
    let empty = server.client().batch_write(batch([])).await.expect_err("empty");
    assert_eq!(fields(&empty), ["operations"]);
}

#[tokio::test]
async fn a_batch_in_which_everything_is_wrong_gets_an_answer_of_bounded_size() {
    let server = Server::start().await;
    let bad =
        |number: usize| Kind::Put(Put { table: format!("/{}", "t".repeat(1_000)), ..put(&number.to_string(), 1.0) });
    let refused = server.client().batch_write(batch((0..1_000).map(bad))).await.expect_err("bad");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(fields(&refused)[0], "operations[0].put.table");
}
