//! Watch streams.

use std::time::Duration;

use flotilla_kit::{
    Context,
    watch::{self, Item, RowEvent},
};
use flotilla_proto::{errors::v1::Reason, feed::v1::Cursor};
use futures::{StreamExt, stream::BoxStream};
use proptest::prelude::*;
use tonic::{Code, Status};

use crate::cell::{Cell, call, intent};

/// What the tests look at of an event: the row's key, and where to go on.
type Event = (String, Cursor);
type Events = BoxStream<'static, Result<Item<Event>, Status>>;

async fn watch(context: &Context, from: Option<Cursor>, table: Option<&'static str>) -> Events {
    let event = move |changed: &RowEvent<'_>| {
        let wanted = table.is_none_or(|table| table == changed.table());
        Ok(wanted.then(|| (String::from_utf8_lossy(changed.key()).into_owned(), changed.cursor())))
    };
    watch::watch(context.clone(), &call(&[]), from, event, |item| item).await.expect("a stream")
}

async fn next(events: &mut Events) -> Item<Event> {
    // Longer than the longest silence of a stream.
    let next = tokio::time::timeout(Duration::from_secs(30), events.next()).await;
    next.expect("an item in time").expect("the stream goes on").expect("an item")
}

async fn heartbeat(events: &mut Events) -> Cursor {
    match next(events).await {
        Item::Heartbeat(heartbeat) => heartbeat.cursor.expect("a cursor"),
        other => panic!("expected a heartbeat, got {other:?}"),
    }
}

async fn event(events: &mut Events) -> Event {
    match next(events).await {
        Item::Event(event) => event,
        other => panic!("expected an event, got {other:?}"),
    }
}

/// One transaction that writes rows of tables `a` and `b`.
async fn write(context: &Context, keys: &[(&str, &str)]) {
    let puts = keys.iter().fold(context.transaction(), |puts, (table, key)| puts.put(table, (*key).to_owned(), ""));
    context.commit(&call(&[]), &intent(&ulid::Ulid::new().to_string()), puts, b"").await.expect("a commit");
}

#[tokio::test]
async fn a_quiet_stream_has_a_heartbeat_whose_cursor_moves_on() {
    let cell = Cell::open().await;
    let (context, other) = (cell.service(1), cell.service(2));
    let mut events = watch(&context, None, None).await;
    assert_eq!(heartbeat(&mut events).await.revision, 0);
    write(&other, &[("a", "not for this service")]).await;
    let started = tokio::time::Instant::now();
    // Time jumps to the next timer whenever everything waits.
    tokio::time::pause();
    let cursor = heartbeat(&mut events).await;
    assert_eq!((cursor.revision, cursor.index), (1, 0));
    let silence = started.elapsed();
    assert!(silence >= Duration::from_secs(19) && silence < Duration::from_secs(25), "{silence:?}");
}

#[tokio::test]
async fn a_reader_resumes_with_the_next_row_of_a_transaction_whatever_it_filtered() {
    let cell = Cell::open().await;
    let context = cell.service(1);
    write(&context, &[("a", "1"), ("b", "2"), ("a", "3"), ("b", "4")]).await;
    let start = Cursor { revision: 0, ..context.cursor() };
    let mut events = watch(&context, Some(start), Some("a")).await;
    heartbeat(&mut events).await;
    assert_eq!(event(&mut events).await.0, "1");
    let (key, cursor) = event(&mut events).await;
    assert_eq!((key.as_str(), cursor.revision, cursor.index), ("3", 1, 3));
    let mut resumed = watch(&context, Some(cursor), None).await;
    heartbeat(&mut resumed).await;
    let (key, cursor) = event(&mut resumed).await;
    assert_eq!((key.as_str(), cursor.revision, cursor.index), ("4", 1, 0));
}

#[tokio::test]
async fn a_cursor_of_another_history_gets_a_reset_with_the_place_to_go_on_from() {
    let cell = Cell::open().await;
    let context = cell.service(1);
    let from = Cursor { history: "another".into(), revision: 0, index: 0 };
    let mut events = watch(&context, Some(from), None).await;
    match next(&mut events).await {
        Item::Reset(reset) => {
            assert_eq!((reset.reason(), reset.cursor), (Reason::HistoryChanged, Some(context.cursor())));
        }
        other => panic!("expected a reset, got {other:?}"),
    }
    assert!(events.next().await.is_none(), "a reset is the last message");
}

#[tokio::test]
async fn a_stopping_server_ends_streams_also_when_they_have_more_to_say() {
    let cell = Cell::open().await;
    let context = cell.service(1);
    let start = context.cursor();
    write(&context, &[("a", "1"), ("a", "2")]).await;
    let mut events = watch(&context, Some(start), None).await;
    heartbeat(&mut events).await;
    event(&mut events).await;
    cell.stopping.send_replace(true);
    let ended = events.next().await.expect("a last word").expect_err("an end");
    assert_eq!(ended.code(), Code::Unavailable);
    assert!(events.next().await.is_none());
}

/// A transaction: in which space, and which table each of its rows is in.
type Written = (u32, Vec<&'static str>);

fn written() -> impl Strategy<Value = Written> {
    (1..=2u32, prop::collection::vec(prop_oneof![Just("a"), Just("b")], 1..6))
}

async fn check(transactions: Vec<Written>, patience: Vec<usize>) {
    let cell = Cell::open().await;
    let services = [cell.service(1), cell.service(2)];
    let mut cursor = services[0].cursor();
    let mut expected = Vec::new();
    for (number, (space, tables)) in transactions.iter().enumerate() {
        let keys: Vec<_> = (0..tables.len()).map(|row| format!("{number}.{row}")).collect();
        let rows: Vec<_> = tables.iter().copied().zip(keys.iter().map(String::as_str)).collect();
        write(&services[*space as usize - 1], &rows).await;
        let wanted = rows.iter().filter(|(table, _)| *space == 1 && *table == "a");
        expected.extend(wanted.map(|(_, key)| (*key).to_owned()));
    }
    let mut seen = Vec::new();
    let mut patience = patience.into_iter().cycle();
    while seen.len() < expected.len() {
        let mut events = watch(&services[0], Some(cursor.clone()), Some("a")).await;
        assert_eq!(heartbeat(&mut events).await, cursor);
        // The connection breaks after so many events.
        for _ in 0..patience.next().unwrap_or(1).min(expected.len() - seen.len()) {
            let (key, next) = event(&mut events).await;
            seen.push(key);
            cursor = next;
        }
    }
    assert_eq!(seen, expected);
    cell.replica.shutdown().await.expect("a clean end");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_reader_whose_connections_break_anywhere_sees_every_event_once_and_in_order(
        transactions in prop::collection::vec(written(), 0..24),
        patience in prop::collection::vec(1..5usize, 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(check(transactions, patience));
    }
}
