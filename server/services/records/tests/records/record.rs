//! Putting, reading and deleting one record.

use flotilla_proto::records::v1::{DeleteRecordRequest, PutRecordRequest};
use prost_types::{ListValue, Struct, Value, value::Kind};
use tonic::Code;

use crate::server::{Server, details, document, fields, metadata, put, reason, unique, with};

fn delete(table: &str, id: &str, etag: &str) -> DeleteRecordRequest {
    DeleteRecordRequest {
        table: table.into(),
        id: id.into(),
        etag: etag.into(),
        request_id: unique(),
        ..DeleteRecordRequest::default()
    }
}

#[tokio::test]
async fn a_record_is_answered_as_it_is_read_afterwards() {
    let server = Server::start().await;
    let first = server.put("boats", "skiff", 1.0).await;
    assert_eq!((first.table.as_str(), first.id.as_str()), ("boats", "skiff"));
    assert_eq!(first.document, Some(document(1.0)));
    assert_eq!(first.create_time, first.update_time);
    assert_eq!(server.get("boats", "skiff").await.expect("the record"), first);

    let second = server.put("boats", "skiff", 2.0).await;
    assert_eq!(second.create_time, first.create_time, "put in place of the former");
    assert_ne!(second.etag, first.etag);
    assert_eq!(server.get("boats", "skiff").await.expect("the record"), second);
}

#[tokio::test]
async fn a_put_without_a_document_writes_an_empty_one() {
    let server = Server::start().await;
    let request = PutRecordRequest { document: None, ..put("boats", "skiff", 0.0) };
    let record = server.client().put_record(request).await.expect("a put").into_inner();
    assert_eq!(record.document, Some(Struct::default()));
    assert_eq!(server.get("boats", "skiff").await.expect("the record"), record);
}

#[tokio::test]
async fn a_retried_put_counts_once_and_gets_its_first_answer() {
    let server = Server::start().await;
    let request = put("boats", "skiff", 1.0);
    let first = server.client().put_record(request.clone()).await.expect("a put").into_inner();
    let later = server.put("boats", "skiff", 2.0).await;
    let retry = server.client().put_record(request.clone()).await.expect("the first answer").into_inner();
    assert_eq!(retry, first);
    assert_eq!(server.get("boats", "skiff").await.expect("the record"), later, "the retry changed nothing");

    for other in [
        PutRecordRequest { document: Some(document(3.0)), ..request.clone() },
        PutRecordRequest { create_only: true, ..request.clone() },
        PutRecordRequest { id: "kayak".into(), ..request.clone() },
        PutRecordRequest { etag: later.etag.clone(), ..request },
    ] {
        let refused = server.client().put_record(other).await.expect_err("another body");
        assert_eq!((refused.code(), reason(&refused)), (Code::InvalidArgument, "REQUEST_ID_REUSED".into()));
    }
}

#[tokio::test]
async fn a_put_that_creates_only_refuses_a_record_that_is_there() {
    let server = Server::start().await;
    let request = PutRecordRequest { create_only: true, ..put("boats", "skiff", 1.0) };
    let first = server.client().put_record(request.clone()).await.expect("a put").into_inner();
    let again = PutRecordRequest { request_id: unique(), ..request.clone() };
    let refused = server.client().put_record(again).await.expect_err("it is there");
    assert_eq!((refused.code(), reason(&refused)), (Code::AlreadyExists, "RECORD_EXISTS".into()));
    assert_eq!((metadata(&refused, "table"), metadata(&refused, "record_id")), ("boats".into(), "skiff".into()));
    let retry = server.client().put_record(request).await.expect("the first answer").into_inner();
    assert_eq!(retry, first);
}

#[tokio::test]
async fn a_put_over_a_version_refuses_any_other() {
    let server = Server::start().await;
    let first = server.put("boats", "skiff", 1.0).await;
    let over = |etag: &str| PutRecordRequest { etag: etag.into(), ..put("boats", "skiff", 2.0) };
    let second = server.client().put_record(over(&first.etag)).await.expect("the etag fits").into_inner();
    let stale = server.client().put_record(over(&first.etag)).await.expect_err("stale");
    assert_eq!((stale.code(), reason(&stale)), (Code::Aborted, "ETAG_STALE".into()));
    assert_eq!(metadata(&stale, "etag"), second.etag);

    let nowhere = PutRecordRequest { id: "kayak".into(), ..over(&first.etag) };
    let stale = server.client().put_record(nowhere).await.expect_err("no such record");
    assert_eq!((reason(&stale), metadata(&stale, "etag")), ("ETAG_STALE".into(), String::new()));
}

#[tokio::test]
async fn a_deleted_record_is_gone_and_its_deletion_can_be_retried() {
    let server = Server::start().await;
    server.put("boats", "skiff", 1.0).await;
    let request = delete("boats", "skiff", "");
    server.client().delete_record(request.clone()).await.expect("a deletion");
    server.client().delete_record(request).await.expect("its retry");
    let gone = server.get("boats", "skiff").await.expect_err("gone");
    assert_eq!((gone.code(), reason(&gone)), (Code::NotFound, "RECORD_NOT_FOUND".into()));
    assert_eq!(details(&gone).1.resource_info().expect("a ResourceInfo").resource_name, "boats/skiff");

    let again = server.client().delete_record(delete("boats", "skiff", "")).await.expect_err("gone");
    assert_eq!((again.code(), reason(&again)), (Code::NotFound, "RECORD_NOT_FOUND".into()));
    let lenient = DeleteRecordRequest { allow_missing: true, ..delete("boats", "skiff", "") };
    server.client().delete_record(lenient).await.expect("missing is allowed");
}

#[tokio::test]
async fn a_deletion_of_a_version_spares_any_other() {
    let server = Server::start().await;
    let first = server.put("boats", "skiff", 1.0).await;
    let second = server.put("boats", "skiff", 2.0).await;
    for allow_missing in [false, true] {
        let stale = DeleteRecordRequest { allow_missing, ..delete("boats", "skiff", &first.etag) };
        let stale = server.client().delete_record(stale).await.expect_err("stale");
        assert_eq!((reason(&stale), metadata(&stale, "etag")), ("ETAG_STALE".into(), second.etag.clone()));
    }
    let exact = DeleteRecordRequest { allow_missing: true, ..delete("boats", "skiff", &second.etag) };
    server.client().delete_record(exact.clone()).await.expect("the etag fits");
    server.client().delete_record(exact).await.expect("its retry");
    let missing = DeleteRecordRequest { allow_missing: true, ..delete("boats", "skiff", &second.etag) };
    server.client().delete_record(missing).await.expect("missing is allowed");
    let missing = server.client().delete_record(delete("boats", "skiff", &second.etag)).await.expect_err("gone");
    assert_eq!(reason(&missing), "RECORD_NOT_FOUND");
}

#[tokio::test]
async fn what_is_wrong_with_a_record_is_told_by_field() {
    let server = Server::start().await;
    let bad = PutRecordRequest {
        document: Some(with("length", Kind::NumberValue(f64::NAN))),
        etag: "?".into(),
        ..put("a/b", "c/d", 0.0)
    };
    let refused = server.client().put_record(bad).await.expect_err("bad");
    assert_eq!(fields(&refused), ["table", "id", "document.length", "etag"]);
    let both = PutRecordRequest { etag: "1".into(), create_only: true, ..put("boats", "skiff", 0.0) };
    let refused = server.client().put_record(both).await.expect_err("contradictory");
    assert_eq!(fields(&refused), ["etag"]);
    let long = put(&"t".repeat(10_000), "skiff", 0.0);
    assert_eq!(fields(&server.client().put_record(long).await.expect_err("too long")), ["table"]);
    assert_eq!(server.replica.status().revision, 0, "nothing was written");
}

#[tokio::test]
async fn a_record_can_be_one_mebibyte_and_no_larger() {
    let server = Server::start().await;
    let of = |bytes: usize| PutRecordRequest {
        document: Some(with("text", Kind::StringValue("x".repeat(bytes)))),
        ..put("boats", "skiff", 0.0)
    };
    server.client().put_record(of(1024 * 1024 - 200)).await.expect("it fits");
    let refused = server.client().put_record(of(1024 * 1024)).await.expect_err("too large");
    assert_eq!((refused.code(), reason(&refused)), (Code::InvalidArgument, "LIMIT_EXCEEDED".into()));
    assert_eq!((metadata(&refused, "limit"), metadata(&refused, "max")), ("record_bytes".into(), "1048576".into()));
}

#[tokio::test]
async fn a_document_of_32_levels_is_kept_and_a_deeper_one_refused() {
    let server = Server::start().await;
    let objects = |levels| (1..levels).fold(Struct::default(), |inner, _| with("o", Kind::StructValue(inner)));
    let lists = |levels| {
        let list = |inner| Kind::ListValue(ListValue { values: vec![Value { kind: Some(inner) }] });
        with("l", (2..levels).fold(list(Kind::BoolValue(true)), |inner, _| list(inner)))
    };
    let of = |document| PutRecordRequest { document: Some(document), ..put("boats", "skiff", 0.0) };
    for deepest in [objects(32), lists(32)] {
        let record = server.client().put_record(of(deepest)).await.expect("32 levels").into_inner();
        assert_eq!(server.get("boats", "skiff").await.expect("the record"), record);
    }
    for deeper in [objects(33), lists(33), objects(500), lists(500)] {
        let refused = server.client().put_record(of(deeper)).await.expect_err("too many levels");
        assert_eq!((refused.code(), reason(&refused)), (Code::InvalidArgument, "INVALID_FIELD".into()), "{refused:?}");
        assert!(fields(&refused)[0].starts_with("document"), "{refused:?}");
    }
}
