//! Watching records.

use flotilla_proto::{
    feed::v1::Cursor,
    records::v1::{
        BatchWriteRequest, Operation, RecordEvent, WatchRecordsRequest, WatchRecordsResponse,
        operation::{self, Put},
        record_event::Kind,
        watch_records_response::Item,
    },
};
use tonic::Streaming;

use crate::server::{Server, document, fields, unique};

async fn watch(server: &Server, cursor: Option<Cursor>, tables: &[&str]) -> Streaming<WatchRecordsResponse> {
    let tables = tables.iter().map(ToString::to_string).collect();
    server.client().watch_records(WatchRecordsRequest { cursor, tables }).await.expect("a stream").into_inner()
}

async fn next(stream: &mut Streaming<WatchRecordsResponse>) -> Item {
    stream.message().await.expect("a message").expect("the stream goes on").item.expect("an item")
}

async fn next_event(stream: &mut Streaming<WatchRecordsResponse>) -> RecordEvent {
    match next(stream).await {
        Item::Event(event) => event,
        other => panic!("expected an event, got {other:?}"),
    }
}

async fn batch(server: &Server, records: &[(&str, &str)]) {
    let put = |(table, id): &(&str, &str)| {
        let put = Put { table: (*table).into(), id: (*id).into(), document: Some(document(1.0)), ..Put::default() };
        Operation { kind: Some(operation::Kind::Put(put)) }
    };
    let request = BatchWriteRequest { operations: records.iter().map(put).collect(), request_id: unique() };
    server.client().batch_write(request).await.expect("a batch");
}

#[tokio::test]
async fn a_watcher_hears_of_the_tables_it_names_and_of_no_other() {
    let server = Server::start().await;
    let mut stream = watch(&server, None, &["boats"]).await;
    assert!(matches!(next(&mut stream).await, Item::Heartbeat(_)));
    server.put("cars", "beetle", 1.0).await;
    let skiff = server.put("boats", "skiff", 1.0).await;
    let event = next_event(&mut stream).await;
    assert_eq!((event.kind(), event.record.as_ref(), event.previous), (Kind::Created, Some(&skiff), None));
    let changed = server.put("boats", "skiff", 2.0).await;
    let event = next_event(&mut stream).await;
    assert_eq!((event.kind(), event.record, event.previous), (Kind::Updated, Some(changed), Some(skiff)));
}

#[tokio::test]
async fn a_stream_that_broke_within_a_batch_resumes_in_the_middle() {
    let server = Server::start().await;
    let mut stream = watch(&server, None, &[]).await;
    assert!(matches!(next(&mut stream).await, Item::Heartbeat(_)));
    batch(&server, &[("boats", "a"), ("cars", "b"), ("boats", "c"), ("boats", "d")]).await;
    server.put("boats", "e", 1.0).await;

    let first = next_event(&mut stream).await;
    let cursor = first.cursor.expect("a cursor");
    assert_eq!((cursor.revision, cursor.index), (1, 1));
    drop(stream);
    let mut resumed = watch(&server, Some(cursor), &["boats"]).await;
    assert!(matches!(next(&mut resumed).await, Item::Heartbeat(_)));
    let mut seen = Vec::new();
    for _ in 0..3 {
        let event = next_event(&mut resumed).await;
        let cursor = event.cursor.expect("a cursor");
        seen.push((event.record.expect("a record").id, cursor.revision, cursor.index));
    }
    assert_eq!(seen, [("c".into(), 1, 3), ("d".into(), 1, 0), ("e".into(), 2, 0)]);
}

#[tokio::test]
async fn a_bad_table_name_of_a_watch_is_told() {
    let server = Server::start().await;
    let request = WatchRecordsRequest { cursor: None, tables: vec!["boats".into(), "a/b".into()] };
    let refused = server.client().watch_records(request).await.expect_err("a bad name");
    assert_eq!(fields(&refused), ["tables[1]"]);
}
