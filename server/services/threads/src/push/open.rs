//! From a request to a stream: who may have what, from where on.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use flotilla_kit::{Call, Context, Error, View, Violations, time};
use flotilla_proto::{
    errors::v1::Reason,
    feed::v1::Heartbeat,
    threads::v1::{
        SubscribeRequest, SubscribeResponse, ThreadCursor, ThreadReset, subscribe_request::Start,
        subscribe_response::Item,
    },
};
use prost::Message;

use super::{Hub, Pushing, channel::Subscription};
use crate::{
    ack, membership, refusals, rules,
    tables::{MEMBERSHIPS, split_ids},
};

/// Threads that are begun before others have a turn.
const PAUSE_AFTER: usize = 64;

/// Opens a stream.
///
/// # Errors
/// For a thread that is named and can't be had, and for a request that makes
/// no sense: then a former stream of the device stays open.
pub(crate) async fn open(
    context: &Context,
    hub: &Arc<Hub>,
    call: &Call,
    request: SubscribeRequest,
) -> Result<Pushing, Error> {
    // Of two streams of a device, the one that was asked for later is the newer.
    let id = hub.next_id();
    let user = rules::caller(call)?;
    let device = call.require_device()?;
    let wanted = Wanted::of(request)?;
    hub.ready(call).await?;
    let view = context.latest(call).await?;
    for thread in &wanted.threads {
        membership::require(&view, thread, user)?;
    }

    let subscriber = hub.connect(id, user, device, wanted.threads.is_empty());
    let mut opening = Opening {
        stream: Pushing::new(context.clone(), hub.clone(), subscriber),
        messages: VecDeque::new(),
        context,
        hub,
        device: (user, device),
        wanted: &wanted,
    };
    // From here on the hub tells of threads that the user is added to, so these
    // and what a scan finds now are all.
    let threads = match wanted.threads.is_empty() {
        true => memberships(&context.rows(), user)?,
        false => wanted.threads.clone(),
    };
    for (count, thread) in threads.iter().enumerate() {
        opening.start(thread)?;
        // Thousands of threads are no reason to keep others waiting.
        if count % PAUSE_AFTER == PAUSE_AFTER - 1 {
            tokio::task::yield_now().await;
        }
    }
    opening.messages.push_back(heartbeat());
    let Opening { mut stream, messages, .. } = opening;
    stream.open_with(messages);
    Ok(stream)
}

/// The threads of a user.
fn memberships(view: &View, user: &str) -> Result<Vec<String>, Error> {
    let rows = view.scan_prefix(MEMBERSHIPS, user.as_bytes());
    rows.map(|row| Ok(split_ids(&row?.0)?.1.to_owned())).collect()
}

/// A stream that is being opened.
struct Opening<'a> {
    stream: Pushing,
    /// What it begins with.
    messages: VecDeque<Bytes>,
    context: &'a Context,
    hub: &'a Arc<Hub>,
    /// User and device.
    device: (&'a str, &'a str),
    wanted: &'a Wanted,
}

impl Opening<'_> {
    /// Subscribes to a thread and says where it starts, if the user is a member.
    fn start(&mut self, thread: &str) -> Result<(), Error> {
        let (user, _) = self.device;
        let view = self.context.rows();
        let mut joined = membership::join_sequence(&view, thread, user)?;
        while let Some(sequence) = joined {
            let subscription = self.stream.subscribe(thread, sequence)?;
            let (place, reset) = self.wanted.place(self.context, &view, thread, self.device, sequence)?;
            // The place may lie behind a removal that happened just now; then
            // this sees it too.
            joined = membership::join_sequence(&view, thread, user)?;
            if joined != Some(sequence) {
                self.stream.unsubscribe(thread);
                continue;
            }
            subscription.go_to(place.sequence + 1);
            Subscription::queue(&subscription);
            self.messages.push_back(match reset {
                None => started(place),
                Some((reason, message)) => {
                    self.hub.metrics.resets.inc();
                    message_of(Item::Reset(ThreadReset { reason: reason.into(), message, cursor: Some(place) }))
                }
            });
            break;
        }
        Ok(())
    }
}

/// The first thing that is said of a thread.
pub(super) fn started(place: ThreadCursor) -> Bytes {
    message_of(Item::Started(place))
}

/// A sign of life.
pub(super) fn heartbeat() -> Bytes {
    message_of(Item::Heartbeat(Heartbeat { cursor: None, time: Some(time::now()) }))
}

fn message_of(item: Item) -> Bytes {
    SubscribeResponse { item: Some(item) }.encode_to_vec().into()
}

/// A request that makes sense.
struct Wanted {
    /// Empty: all.
    threads: Vec<String>,
    /// By thread: history and sequence.
    cursors: HashMap<String, (String, u64)>,
    start: Start,
}

impl Wanted {
    fn of(request: SubscribeRequest) -> Result<Self, Error> {
        let start = request.start();
        let SubscribeRequest { thread_ids: mut threads, cursors, start: number } = request;
        if threads.len() > rules::MAX_NAMED_THREADS {
            let (max, actual) = (rules::MAX_NAMED_THREADS as u64, threads.len() as u64);
            return Err(Error::LimitExceeded { limit: "thread_ids", max, actual });
        }
        let mut violations = Violations::default();
        for (position, thread) in threads.iter().enumerate() {
            violations.check(rules::thread_id(&format!("thread_ids[{position}]"), thread));
        }
        rules::cursors(&mut violations, &cursors);
        if Start::try_from(number).is_err() {
            violations.add("start", format!("is {number}, which no version of this server knows"));
        }
        threads.sort_unstable();
        threads.dedup();
        for (position, cursor) in cursors.iter().enumerate() {
            if !threads.is_empty() && threads.binary_search(&cursor.thread_id).is_err() {
                violations.add(format!("cursors[{position}].thread_id"), "is none of thread_ids");
            }
        }
        violations.finish()?;
        let cursors = cursors.into_iter().map(|cursor| (cursor.thread_id, (cursor.history, cursor.sequence)));
        Ok(Self { threads, cursors: cursors.collect(), start })
    }

    /// After which place a thread starts, and why it isn't where the client was.
    fn place(
        &self,
        context: &Context,
        view: &View,
        thread: &str,
        (user, device): (&str, &str),
        joined: u64,
    ) -> Result<(ThreadCursor, Option<(Reason, String)>), Error> {
        let at =
            |sequence| ThreadCursor { thread_id: thread.to_owned(), history: context.history().to_owned(), sequence };
        let known = match (self.cursors.get(thread), self.start) {
            (Some((history, sequence)), _) => Some((history.clone(), *sequence)),
            (None, Start::Now) => return Ok((at(membership::last_sequence(view, thread)?), None)),
            (None, _) => ack::find(view, thread, user, device)?.map(|(_, cursor)| (cursor.history, cursor.sequence)),
        };
        let Some((history, sequence)) = known else { return Ok((at(joined.saturating_sub(1)), None)) };
        if history != context.history() {
            let last = at(membership::last_sequence(view, thread)?);
            let ours = context.history().to_owned();
            return Ok((last, Some((Reason::HistoryChanged, Error::HistoryChanged { ours }.to_string()))));
        }
        let last = membership::last_sequence(view, thread)?;
        if sequence > last {
            let message = refusals::in_future(thread, sequence, last);
            return Ok((at(last), Some((Reason::SequenceInFuture, message))));
        }
        Ok((at(sequence), None))
    }
}
