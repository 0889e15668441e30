//! Crash tests on the real binary: writers and watchers over one server that dies again and again.
//!
//! # Layout
//!
//! * [`server`]: the child process.
//! * [`ledger`]: what was asked and acknowledged, and what must therefore be there.
//! * [`writer`], [`watcher`]: the clients.
//!
//! A test starts a server and calls [`Crew::resume`], which holds everything that the server has against what the crew
//! knows; then [`Crew::work`] lets the crew loose, and [`Crew::kill`] or [`Crew::stop`] ends that life. What is left of
//! its disk is the test's affair.

pub(crate) mod ledger;
pub(crate) mod server;
pub(crate) mod watcher;
pub(crate) mod writer;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use flotilla_proto::{
    records::v1::PutRecordRequest,
    users::v1::{CreateUserRequest, DeleteUserRequest, User},
};
use prost_types::{Struct, Value, value::Kind};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::task::JoinHandle;

use ledger::{Answer, Client, Entry, Key, Request, Rows};
use server::Server;
use watcher::{Of, Seen, Watcher};
use writer::{Ending, Writer, new_id, tables};

/// The number of the writer who writes only while nobody else does.
const HERALD: usize = 99;

/// Everybody who uses the server.
pub(crate) struct Crew {
    writers: Vec<Writer>,
    herald: Writer,
    watchers: [Watcher; 2],
    /// Started over below the floor in the last round.
    late: Option<Watcher>,
    /// The last revision that watchers have heard of.
    revision: Option<u64>,
    /// What was heard and acknowledged in all rounds.
    pub(crate) totals: Totals,
}

/// What a test says at its end.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) acknowledged: usize,
    pub(crate) open: usize,
    pub(crate) events: usize,
    pub(crate) started_over: usize,
}

/// One life of a server.
pub(crate) struct Round {
    pub(crate) client: Client,
    /// Set before the server is killed.
    ending: Ending,
    writing: Vec<JoinHandle<Writer>>,
    watching: Vec<JoinHandle<()>>,
}

impl Crew {
    /// A crew whose choices follow from a seed.
    pub(crate) fn new(seed: u64, writers: usize, padding: usize) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut writer = |number| Writer::new(number, StdRng::seed_from_u64(random.random()), padding);
        Self {
            writers: (0..writers).map(&mut writer).collect(),
            herald: writer(HERALD),
            watchers: [Watcher::new(Of::Users, None), Watcher::new(Of::Records, None)],
            late: None,
            revision: None,
            totals: Totals::default(),
        }
    }

    /// After a start: everything acknowledged is there and nothing else, what was open is tried again and counts once,
    /// and the watchers go on without gap or duplicate.
    pub(crate) async fn resume(&mut self, server: &Server) -> Round {
        let mut client = Client::new(server.connect().await);
        let mut round = Round {
            client: client.clone(),
            ending: Arc::new(AtomicBool::new(false)),
            writing: Vec::new(),
            watching: Vec::new(),
        };
        let rows = all_rows(&mut client).await;
        let mut entries = Vec::new();
        for writer in self.writers.iter_mut().chain([&mut self.herald]) {
            self.totals.open += writer.ledger.entries().iter().filter(|entry| entry.answer.is_none()).count();
            entries.extend(writer.settle(&mut client, &rows).await);
        }
        for watcher in &self.watchers {
            round.watching.push(watcher.follow(client.clone(), round.ending.clone()).await);
        }
        let (put, removed) = self.mark(&mut client).await;
        entries.extend(self.herald.ledger.close());
        self.totals.acknowledged += entries.len();
        let mut revisions = BTreeSet::new();
        for (watcher, last) in self.watchers.iter().zip([&removed, &put]) {
            watcher.hear(last).await;
            let seen = watcher.take_seen();
            self.totals.events += seen.len();
            revisions.extend(seen.iter().map(|seen| seen.cursor.revision));
            compare(watcher.of(), &entries, &seen);
        }
        self.check_dense(&revisions);
        self.verify_late(&mut round, &put).await;
        round
    }

    /// Lets the writers write.
    pub(crate) fn work(&mut self, round: &mut Round) {
        for writer in self.writers.drain(..) {
            round.writing.push(tokio::spawn(writer.write(round.client.clone(), round.ending.clone())));
        }
    }

    /// `kill -9`, and the crew is back.
    pub(crate) async fn kill(&mut self, server: &mut Server, round: Round) {
        round.ending.store(true, Ordering::Release);
        server.kill();
        self.gather(round).await;
    }

    /// Asks the server to stop while the crew is at work; it must end with success.
    pub(crate) async fn stop(&mut self, server: &mut Server, round: Round) {
        round.ending.store(true, Ordering::Release);
        let status = server.stop().await;
        assert!(status.success(), "a server that is asked to stop ends with {status}:\n{}", server.log());
        self.gather(round).await;
    }

    /// Takes the crew back in when the server is gone.
    async fn gather(&mut self, round: Round) {
        for writing in round.writing {
            self.writers.push(writing.await.expect("a writer's end"));
        }
        for watching in round.watching {
            watching.await.expect("a watcher's end");
        }
    }

    /// Adds a watcher whose cursor is below the floor; it is held against the rows in the next round.
    pub(crate) async fn start_late(&mut self, round: &mut Round, stale: &Watcher) {
        let late = Watcher::new(Of::Records, stale.cursor());
        if let Some(task) = late.start_over(round.client.clone(), &tables(), round.ending.clone()).await {
            round.watching.push(task);
            self.late = Some(late);
            self.totals.started_over += 1;
        }
    }

    /// Watchers at the places where the crew's are now.
    pub(crate) fn places(&self) -> [Watcher; 2] {
        self.watchers.each_ref().map(|watcher| Watcher::new(watcher.of(), watcher.cursor()))
    }

    /// Writes so many bytes, in one record, while nobody else writes. What was asked before may be forgotten by the
    /// server afterwards.
    pub(crate) async fn fill(&mut self, round: &mut Round, bytes: usize) {
        const RECORD: usize = 900 * 1024;
        let text = Value { kind: Some(Kind::StringValue("x".repeat(RECORD))) };
        let document = Struct { fields: [("filling".to_owned(), text)].into() };
        for _ in 0..bytes.div_ceil(RECORD) {
            self.put(&mut round.client, "big", document.clone()).await;
        }
        self.put(&mut round.client, "big", Struct::default()).await;
        for writer in self.writers.iter_mut().chain([&mut self.herald]) {
            writer.ledger.forget();
        }
    }

    /// A server on what a power cut at some moment would have left: it must have everything that was acknowledged
    /// before, and of what came after only a beginning. Changes nothing of what the crew knows.
    pub(crate) async fn verify_branch(&self, server: &Server, from: &[Watcher; 2], moment: u64) {
        let mut client = Client::new(server.connect().await);
        let ending: Ending = Arc::new(AtomicBool::new(false));
        let rows = all_rows(&mut client).await;
        let mut entries = Vec::new();
        for writer in self.writers.iter().chain([&self.herald]) {
            let applied = writer.ledger.verify(&writer.own(&rows), moment);
            let applied = &writer.ledger.entries()[..applied];
            for entry in applied.iter().filter(|entry| entry.answer.is_some()).rev().take(2) {
                ledger::retry(entry, &mut client).await;
            }
            entries.extend_from_slice(applied);
        }
        client.check().await;
        let (put, created, marks) = branch_marks(&mut client).await;
        entries.extend(marks);
        for (watcher, last) in from.iter().zip([&created, &put]) {
            let task = watcher.follow(client.clone(), ending.clone()).await;
            watcher.hear(last).await;
            compare(watcher.of(), &entries, &watcher.take_seen());
            task.abort();
        }
    }

    /// Changes users, then a record, so that watchers can be waited for; returns the request ids of the record's and
    /// of the last user's change.
    async fn mark(&mut self, client: &mut Client) -> (String, String) {
        let email = format!("w{HERALD}-0@example.org");
        let user = Some(User { email: email.clone(), first_name: "Herald".into(), ..Default::default() });
        let create = Request::Create(CreateUserRequest { user, request_id: new_id() });
        let created = self.herald.ledger.send(create, client).await.expect("a user created");
        let Answer::User(user) = created else { panic!("CreateUser was answered {created:?}") };
        let remove = DeleteUserRequest { id: user.id, request_id: new_id(), ..Default::default() };
        let remove = Request::Remove(email, remove);
        let last = remove.id().to_owned();
        self.herald.ledger.send(remove, client).await.expect("a user deleted");
        (self.put(client, "mark", Struct::default()).await, last)
    }

    async fn put(&mut self, client: &mut Client, name: &str, document: Struct) -> String {
        let (table, id, document) = (writer::table(0), format!("w{HERALD}-{name}"), Some(document));
        let put = Request::Put(PutRecordRequest { table, id, document, request_id: new_id(), ..Default::default() });
        let request_id = put.id().to_owned();
        self.herald.ledger.send(put, client).await.expect("a record put");
        request_id
    }

    /// Every transaction made an event: of the revisions none is missing.
    fn check_dense(&mut self, revisions: &BTreeSet<u64>) {
        let last = *revisions.last().expect("a revision");
        let first = self.revision.map_or_else(|| *revisions.first().expect("a revision"), |revision| revision + 1);
        let missing: Vec<u64> = (first..=last).filter(|revision| !revisions.contains(revision)).collect();
        assert!(missing.is_empty(), "no watcher heard of revisions {missing:?} of {first} to {last}");
        self.revision = Some(last);
    }

    /// The watcher that started over in the last round knows exactly the rows that there are.
    async fn verify_late(&mut self, round: &mut Round, last: &str) {
        let Some(late) = self.late.take() else { return };
        let task = late.follow(round.client.clone(), round.ending.clone()).await;
        late.hear(last).await;
        let rows = round.client.records(&tables()).await.expect("the records");
        let rows: BTreeMap<Key, String> =
            rows.into_iter().map(|(key, row)| (key, row.etag.unwrap_or_default())).collect();
        assert_eq!(late.mirror(), rows, "a watcher that started over from a scan knows other rows than there are");
        task.abort();
    }
}

async fn all_rows(client: &mut Client) -> Rows {
    let mut rows = client.records(&tables()).await.expect("the records");
    rows.extend(client.users().await.expect("the users"));
    rows
}

/// As [`Crew::mark`], but not in any ledger.
async fn branch_marks(client: &mut Client) -> (String, String, Vec<Entry>) {
    let user = Some(User { email: "branch@example.org".into(), ..Default::default() });
    let create = Request::Create(CreateUserRequest { user, request_id: new_id() });
    let put =
        PutRecordRequest { table: "branch".into(), id: "mark".into(), request_id: new_id(), ..Default::default() };
    let put = Request::Put(put);
    let (put_id, create_id) = (put.id().to_owned(), create.id().to_owned());
    let mut entries = Vec::new();
    for request in [create, put] {
        let answer = Some(request.send(client).await.expect("a mark"));
        entries.push(Entry { request, answer, acknowledged: 0 });
    }
    (put_id, create_id, entries)
}

/// Each change made its events once, and there are no others.
fn compare(of: Of, entries: &[Entry], seen: &[Seen]) {
    let mut expected = BTreeMap::new();
    for entry in entries {
        for (key, etag) in entry.events() {
            if (of == Of::Users) == key.starts_with("user ") {
                expected.insert((entry.request.id().to_owned(), key), (etag, entry.answer.is_some()));
            }
        }
    }
    for event in seen {
        let (etag, known) = expected
            .remove(&(event.request_id.clone(), event.key.clone()))
            .unwrap_or_else(|| panic!("a watcher heard of what nobody did, or twice: {event:?}"));
        assert!(
            !known || etag == event.etag,
            "a watcher heard of etag {:?} instead of {etag:?}: {event:?}",
            event.etag
        );
    }
    assert!(expected.is_empty(), "a watcher did not hear of {:?}", expected.keys());
}
