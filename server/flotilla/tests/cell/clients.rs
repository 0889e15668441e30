//! Clients, each with one operation at a time: they read, write and swap registers that a few of them share, and create
//! records, at any server; what had no answer is asked again with the same request id, until it has one.

use std::{sync::Arc, time::Duration};

use flotilla_proto::records::v1::{
    GetRecordRequest, PutRecordRequest, Record, records_service_client::RecordsServiceClient,
};
use prost_types::{Struct, Value as Json, value::Kind};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

use crate::{
    cell::{channel, timed},
    history::{Created, History},
    linearizability::{Action, Answer, Operation, Value},
};

/// Where registers are, and where records are that nobody changes.
pub(crate) const REGISTERS: &str = "registers";
pub(crate) const LEDGER: &str = "ledger";

const GROUPS: usize = 4;
/// Clients that share registers. More make the search for an order longer, not better.
const GROUP: usize = 3;
/// One try's time.
const TRY: Duration = Duration::from_millis(1_500);
/// The pauses between operations, and between tries, are at most so long.
const PAUSE: u64 = 30_000;
/// How long an operation goes on once clients are to stop.
const LAST: Duration = Duration::from_secs(40);
/// How many acknowledged changes are sent once more, to get their first answer.
const AGAIN: f64 = 0.05;

/// All of them at work.
pub(crate) struct Load {
    pub(crate) history: Arc<History>,
    stop: watch::Sender<Option<Instant>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts them at these servers.
    pub(crate) fn start(servers: &[u64], random: &mut StdRng) -> Self {
        let (history, stop) = (Arc::new(History::new()), watch::Sender::new(None));
        let mut tasks = Vec::new();
        for number in 0..GROUPS * GROUP {
            let client = Client {
                number,
                servers: servers.iter().map(|server| records(*server)).collect(),
                random: StdRng::seed_from_u64(random.random()),
                history: history.clone(),
                stop: stop.subscribe(),
                count: 0,
                seen: None,
            };
            tasks.push(tokio::spawn(client.run()));
        }
        Self { history, stop, tasks }
    }

    /// Fails as soon as a client has.
    pub(crate) async fn is_well(&mut self) {
        for task in &mut self.tasks {
            if task.is_finished() {
                task.await.expect("a client that goes on");
            }
        }
    }

    /// Lets each finish its operation.
    pub(crate) async fn stop(&mut self) {
        self.stop.send_replace(Some(Instant::now()));
        for task in self.tasks.drain(..) {
            task.await.expect("a client's end");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// The records of a server, over a connection of its own.
pub(crate) fn records(server: u64) -> RecordsServiceClient<Channel> {
    RecordsServiceClient::new(channel(server)).max_decoding_message_size(8 << 20)
}

struct Client {
    number: usize,
    servers: Vec<RecordsServiceClient<Channel>>,
    random: StdRng,
    history: Arc<History>,
    stop: watch::Receiver<Option<Instant>>,
    count: u64,
    /// What it saw last: of which register, which value, with which etag.
    seen: Option<(String, Option<(Value, String)>)>,
}

/// A definite answer to a change.
enum Told {
    Done(Record),
    /// The condition doesn't hold.
    Stale,
}

impl Client {
    async fn run(mut self) {
        while self.stop.borrow().is_none() {
            let register = self.history.register(self.number / GROUP);
            let seen = self.seen.take().filter(|(of, _)| *of == register).map(|(_, seen)| seen);
            match (self.random.random_range(0..10), seen) {
                (0..3, _) => self.read(register).await,
                (3..5, _) => self.write(register).await,
                (5..8, Some(seen)) => self.swap(register, seen).await,
                (5..8, None) => self.read(register).await,
                _ => self.create().await,
            }
            self.pause().await;
        }
    }

    async fn read(&mut self, register: String) {
        let mut client = self.any();
        let invoked = self.history.now();
        let message = GetRecordRequest { table: REGISTERS.into(), id: register.clone() };
        let answer = tokio::time::timeout(TRY + TRY / 2, client.get_record(timed(message, TRY))).await;
        let seen = match answer {
            Ok(Ok(record)) => Some(value_of(record.get_ref())),
            Ok(Err(status)) if status.code() == Code::NotFound => None,
            // A read without an answer tells nothing.
            Ok(Err(status)) => return passes(&status),
            Err(_) => return,
        };
        let answer = (self.history.now(), Answer::Value(seen.as_ref().map(|(value, _)| *value)));
        if let Some((value, etag)) = &seen {
            self.history.see(*value, etag);
        }
        self.record(&register, Action::Read, invoked, Some(answer));
        self.seen = Some((register, seen));
    }

    async fn write(&mut self, register: String) {
        let value = self.value();
        let put = put(REGISTERS, register.clone(), value);
        self.change(register, Action::Write(value), put).await;
    }

    async fn swap(&mut self, register: String, seen: Option<(Value, String)>) {
        let value = self.value();
        let expected = seen.as_ref().map(|(value, _)| *value);
        let put = PutRecordRequest {
            create_only: seen.is_none(),
            etag: seen.map(|(_, etag)| etag).unwrap_or_default(),
            ..put(REGISTERS, register.clone(), value)
        };
        self.change(register, Action::Swap(expected, value), put).await;
    }

    async fn change(&mut self, register: String, action: Action, put: PutRecordRequest) {
        let invoked = self.history.now();
        let told = self.insist(&put).await;
        let now = self.history.now();
        let answer = told.map(|told| match told {
            Told::Stale => (now, Answer::Stale),
            Told::Done(record) => {
                let (value, etag) = value_of(&record);
                self.history.see(value, &etag);
                self.seen = Some((register.clone(), Some((value, etag))));
                (now, Answer::Done)
            }
        });
        self.record(&register, action, invoked, answer);
    }

    async fn create(&mut self) {
        let value = self.value();
        let put = PutRecordRequest { create_only: true, ..put(LEDGER, value.to_string(), value) };
        let (id, request_id) = (put.id.clone(), put.request_id.clone());
        let etag = match self.insist(&put).await {
            Some(Told::Done(record)) => Some(record.etag),
            Some(Told::Stale) => {
                panic!("record {id} of {LEDGER}, whose id is new, was there: its request counted twice")
            }
            None => None,
        };
        self.history.record_created(Created { id, request_id, etag });
    }

    /// Sends a change, at one server after the other, until it has a definite answer.
    async fn insist(&mut self, put: &PutRecordRequest) -> Option<Told> {
        let begun = Instant::now();
        for tries in 0.. {
            if Instant::now() > self.limit() {
                self.history.give_up();
                return None;
            }
            let mut client = self.any();
            match tokio::time::timeout(TRY + TRY / 2, client.put_record(timed(put.clone(), TRY))).await {
                Ok(Ok(record)) => {
                    self.history.acknowledge(begun.elapsed(), tries);
                    let record = record.into_inner();
                    self.once_more(put, &record).await;
                    return Some(Told::Done(record));
                }
                Ok(Err(status)) if is_stale(&status) => return Some(Told::Stale),
                Ok(Err(status)) => passes(&status),
                Err(_) => {}
            }
            self.pause().await;
        }
        None
    }

    /// A change that was answered has the same answer at any server.
    async fn once_more(&mut self, put: &PutRecordRequest, first: &Record) {
        if !self.random.random_bool(AGAIN) {
            return;
        }
        let mut client = self.any();
        match tokio::time::timeout(TRY + TRY / 2, client.put_record(timed(put.clone(), TRY))).await {
            Ok(Ok(again)) => assert_eq!(again.get_ref(), first, "a retry has another answer than the first"),
            Ok(Err(status)) if is_stale(&status) => panic!("{put:?} was done, and its retry was refused: {status:?}"),
            Ok(Err(status)) => passes(&status),
            Err(_) => {}
        }
    }

    fn record(&self, register: &str, action: Action, invoked: u64, answer: Option<(u64, Answer)>) {
        self.history.record(register, Operation { client: self.number, action, invoked, answer });
    }

    fn any(&mut self) -> RecordsServiceClient<Channel> {
        self.servers.choose(&mut self.random).expect("a server").clone()
    }

    /// One that nobody else writes.
    fn value(&mut self) -> Value {
        self.count += 1;
        self.number as u64 * 1_000_000 + self.count
    }

    /// Until when an operation may go on: once told to stop, a client has so much time from then.
    fn limit(&self) -> Instant {
        self.stop.borrow().map_or_else(|| Instant::now() + LAST, |told| told + LAST)
    }

    async fn pause(&mut self) {
        tokio::time::sleep(Duration::from_micros(self.random.random_range(PAUSE / 4..PAUSE))).await;
    }
}

fn put(table: &str, id: String, value: Value) -> PutRecordRequest {
    let number = Json { kind: Some(Kind::StringValue(value.to_string())) };
    let document = Some(Struct { fields: [("value".to_owned(), number)].into() });
    let request_id = ulid::Ulid::new().to_string();
    PutRecordRequest { table: table.into(), id, document, request_id, ..PutRecordRequest::default() }
}

/// A record's value and etag.
pub(crate) fn value_of(record: &Record) -> (Value, String) {
    let value = record.document.as_ref().and_then(|document| document.fields.get("value"));
    match value.and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(value)) => (value.parse().expect("a number"), record.etag.clone()),
        other => panic!("{}/{} holds {other:?}", record.table, record.id),
    }
}

/// Whether the answer says that the condition doesn't hold: it never will again, since nobody deletes.
fn is_stale(status: &Status) -> bool {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.as_str());
    matches!(reason, Some("ETAG_STALE" | "RECORD_EXISTS"))
}

/// Errors of servers that are killed, cut off, paused or without a leader; any other fails the test.
pub(crate) fn passes(status: &Status) {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.as_str()).unwrap_or_default();
    let expected = match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Cancelled => true,
        // Broken connections, by tonic.
        Code::Unknown | Code::Internal => reason.is_empty(),
        Code::Aborted => reason == "CONFLICT",
        _ => false,
    };
    assert!(expected && reason != "INTERNAL", "a server answered {status:?}");
}
