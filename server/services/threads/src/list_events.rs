//! ListEvents: a thread's outbox, from either end.

use std::ops::Bound;

use bytes::Bytes;
use flotilla_kit::{Call, Context, Error, Page, Row, View, Violations, fields::FieldViolation, view::MAX_PAGE_BYTES};
use flotilla_proto::threads::v1::{Event, ListEventsRequest, ListEventsResponse, ThreadCursor};
use prost::Message;

use crate::{
    events, membership, refusals, rules,
    tables::{EVENTS, event_key, split_event_key},
};

pub(crate) async fn list(
    context: &Context,
    call: &Call,
    request: ListEventsRequest,
) -> Result<(u64, ListEventsResponse), Error> {
    let caller = rules::caller(call)?;
    let ListEventsRequest { thread_id: thread, page_size, page_token, newest_first, after_sequence, history } = request;
    let mut violations = Violations::default();
    violations.check(rules::thread_id("thread_id", &thread));
    if after_sequence > 0 && history.is_empty() {
        violations.add("history", "is empty; after_sequence counts in a history");
    }
    violations.finish()?;
    let filters = [thread.as_str(), &newest_first.to_string(), &after_sequence.to_string(), &history];
    let page = context.page(call, &filters, page_size, &page_token)?;
    if after_sequence > 0 && history != context.history() {
        return Err(Error::HistoryChanged { ours: context.history().to_owned() });
    }

    let view = context.read(call).await?;
    membership::require(&view, &thread, caller)?;
    let last = membership::last_sequence(&view, &thread)?;
    // A removal that came in between is seen by now.
    membership::require(&view, &thread, caller)?;
    if after_sequence > last {
        return Err(refusals::sequence_in_future(&thread, after_sequence, last));
    }
    let first = match view.scan_prefix(EVENTS, thread.as_bytes()).next() {
        Some(row) => split_event_key(&row?.0)?.1,
        None => 0,
    };
    // The newest event is told as the page's end, so the page has no newer ones.
    let range = (after_sequence + 1, last);
    let (events, next_page_token) = match newest_first {
        false => read(&view, &thread, &page, range, Order::OldestFirst)?,
        true => read(&view, &thread, &page, range, Order::NewestFirst)?,
    };
    let end = ThreadCursor { thread_id: thread, history: context.history().to_owned(), sequence: last };
    let response = ListEventsResponse { events, next_page_token, end: Some(end), first_sequence: first };
    Ok((view.revision(), response))
}

#[derive(Clone, Copy, PartialEq)]
enum Order {
    OldestFirst,
    NewestFirst,
}

/// A page of the events with sequences from the first to the last.
fn read(
    view: &View,
    thread: &str,
    page: &Page,
    (first, last): (u64, u64),
    order: Order,
) -> Result<(Vec<Event>, String), Error> {
    let (first, last) = (event_key(thread, first), event_key(thread, last));
    let (mut start, mut end) = (Bound::Included(&first[..]), Bound::Included(&last[..]));
    if let Some(after) = page.after() {
        if !after.starts_with(thread.as_bytes()) {
            return Err(FieldViolation::new("page_token", "is no page token of this list").into());
        }
        match order {
            Order::OldestFirst => start = Bound::Excluded(&after[..]),
            Order::NewestFirst => end = Bound::Excluded(&after[..]),
        }
    }
    let is_empty = match (start, end) {
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => start >= end,
        _ => false,
    };
    if is_empty {
        return Ok((Vec::new(), String::new()));
    }
    let rows = view.scan(EVENTS, (start, end));
    match order {
        Order::OldestFirst => gather(thread, page, rows),
        Order::NewestFirst => gather(thread, page, rows.rev()),
    }
}

fn gather(
    thread: &str,
    page: &Page,
    rows: impl Iterator<Item = Result<(Bytes, Row), Error>>,
) -> Result<(Vec<Event>, String), Error> {
    let (mut events, mut bytes, mut last) = (Vec::new(), 0, Bytes::new());
    for row in rows {
        let (key, row) = row?;
        if events.len() == page.size() || bytes >= MAX_PAGE_BYTES {
            return Ok((events, page.next_token(&last)));
        }
        let event = events::decode(thread, split_event_key(&key)?.1, &row)?;
        bytes += event.encoded_len();
        events.push(event);
        last = key;
    }
    Ok((events, String::new()))
}
