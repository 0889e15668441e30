//! What a server has in the end, read by ListEvents: everything that anybody was told must be in it.

use std::collections::{BTreeMap, HashMap};

use flotilla_client::{Client, Pages};
use flotilla_proto::threads::v1::{Event, ListEventsRequest, ListMembersRequest, event::Kind};
use prost::Message;

use super::poster::Posted;

/// A thread, and its members' ids.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) thread: String,
    pub(crate) users: Vec<String>,
}

/// The outboxes of threads.
pub(crate) struct Truth {
    outboxes: BTreeMap<String, Outbox>,
}

/// Everything of a thread.
pub(crate) struct Outbox {
    pub(crate) events: Vec<Event>,
    /// The events' hashes, in the same order.
    pub(crate) hashes: Vec<u64>,
    /// The sequences of the members' joinings, by user.
    pub(crate) joined: HashMap<String, u64>,
}

impl Truth {
    /// Reads all of the threads; their sequences are 1, 2, 3, ….
    pub(crate) async fn read(client: &Client, places: &[Place]) -> Self {
        let mut outboxes = BTreeMap::new();
        for Place { thread, users } in places {
            let client = client.acting_as(&users[0]).expect("an id");
            let events = events(&client, thread).await;
            let hashes = events.iter().map(hash).collect();
            let mut joined = HashMap::new();
            let request = ListMembersRequest { thread_id: thread.clone(), ..ListMembersRequest::default() };
            let mut pages = Pages::new(&client, request);
            while let Some(page) = pages.next(1000).await.expect("members") {
                joined.extend(page.items.into_iter().map(|member| (member.user_id, member.join_sequence)));
            }
            outboxes.insert(thread.clone(), Outbox { events, hashes, joined });
        }
        Self { outboxes }
    }

    /// The threads.
    pub(crate) fn outboxes(&self) -> impl Iterator<Item = (&String, &Outbox)> {
        self.outboxes.iter()
    }

    /// One of them.
    pub(crate) fn outbox(&self, thread: &str) -> &Outbox {
        self.outboxes.get(thread).unwrap_or_else(|| panic!("there is no thread {thread}"))
    }

    /// What was acknowledged by a moment is there, as it was answered, and nothing was done twice.
    pub(crate) fn has_posted(&self, posted: &[Posted], moment: u64) {
        let mut found: HashMap<&str, (&str, u64)> = HashMap::new();
        for (thread, outbox) in &self.outboxes {
            for event in outbox.events.iter().filter(|event| !matches!(event.kind, Some(Kind::MemberJoined(_)))) {
                let former = found.insert(&event.request_id, (thread, event.sequence));
                assert!(former.is_none(), "one request made two events: {former:?} and {event:?}");
            }
        }
        for Posted { request_id, thread, event, at } in posted.iter().filter(|posted| posted.at <= moment) {
            let (place, sequence) = found.remove(request_id.as_str()).unwrap_or_else(|| {
                panic!("what request {request_id} did to thread {thread} was acknowledged, at {at}, and is gone")
            });
            assert_eq!(place, thread, "request {request_id}");
            if let Some((acknowledged, hash)) = event {
                assert_eq!(sequence, *acknowledged, "request {request_id} made another event of thread {thread}");
                let now = self.outbox(thread).hashes[sequence as usize - 1];
                assert_eq!(now, *hash, "event {sequence} of thread {thread} is not what was acknowledged");
            }
        }
        assert!(moment < u64::MAX || found.is_empty(), "nobody did {found:?}");
    }
}

/// All of a thread's events.
pub(crate) async fn events(client: &Client, thread: &str) -> Vec<Event> {
    let mut events = Vec::new();
    let request = ListEventsRequest { thread_id: thread.to_owned(), ..ListEventsRequest::default() };
    let mut pages = Pages::new(client, request);
    while let Some(page) = pages.next(1000).await.expect("events") {
        events.extend(page.items);
    }
    let sequences: Vec<u64> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, (1..=events.len() as u64).collect::<Vec<_>>(), "the outbox of thread {thread}");
    events
}

/// Stands for everything in an event.
pub(crate) fn hash(event: &Event) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&event.encode_to_vec())
}
