//! What watchers of the records hear, from the load's beginning to its end, at every server: the same, in order, with
//! times that never go back, and each acknowledged change once.

use std::{collections::HashMap, time::Duration};

use flotilla_proto::{
    feed::v1::Cursor,
    records::v1::{RecordEvent, WatchRecordsRequest, watch_records_response::Item},
};
use tonic::Status;

use crate::{clients::records, history::History};

/// How long a server may take to tell the next change.
const LIMIT: Duration = Duration::from_secs(20);

/// The place where a feed is now.
pub(crate) async fn place(server: u64) -> Cursor {
    let mut stream = open(server, None).await.expect("a stream of changes");
    match tokio::time::timeout(LIMIT, stream.message()).await.expect("a heartbeat in time") {
        Ok(Some(message)) => match message.item {
            Some(Item::Heartbeat(heartbeat)) => heartbeat.cursor.expect("a cursor"),
            other => panic!("a stream of server {server} begins with {other:?}"),
        },
        other => panic!("a stream of server {server} begins with {other:?}"),
    }
}

/// Holds the feeds of all servers against each other and against what clients know. A server that came back without
/// its data has no changes of before: of it only what it has is held.
pub(crate) async fn hold(servers: &[u64], from: &Cursor, last_request: &str, history: &History) {
    let mut first: Option<(u64, Vec<RecordEvent>)> = None;
    for server in servers {
        let Some(events) = read(*server, from, last_request).await else {
            eprintln!("server {server} keeps no changes from the beginning");
            continue;
        };
        match &first {
            None => {
                is_in_order(*server, &events);
                has_all(*server, &events, history);
                first = Some((*server, events));
            }
            Some((other, expected)) => {
                let (one, two) = (expected.iter().zip(&events)).find(|(one, two)| one != two).unzip();
                assert!(one.is_none(), "server {other} tells {one:#?} and server {server} {two:#?}");
                assert_eq!(expected.len(), events.len(), "events at servers {other} and {server}");
            }
        }
    }
    assert!(first.is_some(), "no server keeps the changes from the beginning");
}

/// All events after a place up to those of a request; none: the place is below the server's floor.
async fn read(server: u64, from: &Cursor, last_request: &str) -> Option<Vec<RecordEvent>> {
    let mut stream = open(server, Some(from.clone())).await.expect("a stream of changes");
    let mut events = Vec::new();
    loop {
        let message = tokio::time::timeout(LIMIT, stream.message()).await;
        let message = message.unwrap_or_else(|_| panic!("server {server} tells nothing more after {}", events.len()));
        match message.expect("a stream that lasts").and_then(|message| message.item) {
            Some(Item::Event(event)) => {
                let is_last = event.request_id == last_request;
                events.push(event);
                if is_last {
                    return Some(events);
                }
            }
            Some(Item::Heartbeat(_)) => {}
            Some(Item::Reset(_)) => return None,
            None => panic!("the stream of server {server} ended after {} events", events.len()),
        }
    }
}

async fn open(
    server: u64,
    cursor: Option<Cursor>,
) -> Result<tonic::Streaming<flotilla_proto::records::v1::WatchRecordsResponse>, Status> {
    let request = WatchRecordsRequest { cursor, ..WatchRecordsRequest::default() };
    Ok(records(server).watch_records(request).await?.into_inner())
}

fn is_in_order(server: u64, events: &[RecordEvent]) {
    for pair in events.windows(2) {
        let place = |event: &RecordEvent| event.cursor.as_ref().map(|cursor| (cursor.revision, cursor.index));
        assert!(place(&pair[0]) < place(&pair[1]), "server {server} tells {:#?} before {:#?}", pair[0], pair[1]);
        let time = |event: &RecordEvent| event.time.map(|time| (time.seconds, time.nanos));
        assert!(time(&pair[0]) <= time(&pair[1]), "the log's time goes back: {:#?} and then {:#?}", pair[0], pair[1]);
    }
}

fn has_all(server: u64, events: &[RecordEvent], history: &History) {
    let mut found: HashMap<&str, &RecordEvent> = HashMap::new();
    for event in events {
        let former = found.insert(&event.request_id, event);
        assert!(former.is_none(), "one request made two events: {former:#?} and {event:#?}");
    }
    for created in history.created() {
        let Some(etag) = created.etag else { continue };
        let event = found.get(created.request_id.as_str());
        let told = event.and_then(|event| event.record.as_ref()).map(|record| &record.etag);
        assert_eq!(told, Some(&etag), "record {} was acknowledged; server {server} tells {event:#?}", created.id);
    }
}
