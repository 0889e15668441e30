//! WatchRecords: the changed rows of some or all tables, as events.

use std::collections::HashSet;

use flotilla_kit::{
    Call, Context, Error, Row, Violations,
    watch::{self, Happened, Item, RowEvent},
};
use flotilla_proto::records::v1::{
    Record, RecordEvent, WatchRecordsRequest, WatchRecordsResponse, record_event::Kind,
    watch_records_response as response,
};
use futures::stream::BoxStream;
use tonic::Status;

use crate::{row, rules};

const MAX_TABLES: usize = 100;

pub(crate) async fn watch(
    context: &Context,
    call: &Call,
    request: WatchRecordsRequest,
) -> Result<BoxStream<'static, Result<WatchRecordsResponse, Status>>, Error> {
    let WatchRecordsRequest { cursor, tables } = request;
    if tables.len() > MAX_TABLES {
        let (max, actual) = (MAX_TABLES as u64, tables.len() as u64);
        return Err(Error::LimitExceeded { limit: "tables", max, actual });
    }
    let mut violations = Violations::default();
    for (index, table) in tables.iter().enumerate() {
        if let Err(problem) = rules::table(table) {
            violations.add(format!("tables[{index}]"), problem);
        }
    }
    violations.finish()?;
    let tables: HashSet<String> = tables.into_iter().collect();
    let wanted = move |changed: &RowEvent<'_>| match tables.is_empty() || tables.contains(changed.table()) {
        true => event(changed),
        false => Ok(None),
    };
    watch::watch(context.clone(), call, cursor, wanted, message).await
}

fn event(changed: &RowEvent<'_>) -> Result<Option<RecordEvent>, Error> {
    let record = |found: &Row| row::decode(changed.table(), changed.key(), found);
    let (kind, record, previous): (Kind, Record, Option<Record>) = match changed.happened() {
        Some(Happened::Created(after)) => (Kind::Created, record(after)?, None),
        Some(Happened::Updated(before, after)) => (Kind::Updated, record(after)?, Some(record(before)?)),
        Some(Happened::Deleted(before)) => (Kind::Deleted, record(before)?, None),
        None => return Ok(None),
    };
    Ok(Some(RecordEvent {
        kind: kind.into(),
        record: Some(record),
        previous,
        cursor: Some(changed.cursor()),
        time: Some(changed.time()),
        request_id: changed.request_id().to_owned(),
    }))
}

fn message(item: Item<RecordEvent>) -> WatchRecordsResponse {
    let item = match item {
        Item::Event(event) => response::Item::Event(event),
        Item::Heartbeat(heartbeat) => response::Item::Heartbeat(heartbeat),
        Item::Reset(reset) => response::Item::Reset(reset),
    };
    WatchRecordsResponse { item: Some(item) }
}
