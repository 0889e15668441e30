//! What was asked of the server and what it acknowledged: what must be there after a crash, and what may be.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{SystemTime, UNIX_EPOCH},
};

use flotilla_proto::{
    cluster::v1::{CheckRequest, cluster_service_client::ClusterServiceClient},
    records::v1::{
        BatchWriteRequest, BatchWriteResponse, DeleteRecordRequest, ListRecordsRequest, PutRecordRequest, Record,
        operation, records_service_client::RecordsServiceClient,
    },
    users::v1::{
        CreateUserRequest, DeleteUserRequest, ListUsersRequest, UpdateUserRequest, User,
        users_service_client::UsersServiceClient,
    },
};
use tonic::{Status, transport::Channel};

/// Acknowledged entries that are kept to be tried again later.
const REMEMBERED: usize = 20;

/// The services of one server.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) users: UsersServiceClient<Channel>,
    pub(crate) records: RecordsServiceClient<Channel>,
    pub(crate) cluster: ClusterServiceClient<Channel>,
}

/// A change, as it is sent, and sent again.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Put(PutRecordRequest),
    Delete(DeleteRecordRequest),
    Batch(BatchWriteRequest),
    Create(CreateUserRequest),
    /// With the user's email address, which the request lacks.
    Update(String, UpdateUserRequest),
    /// With the user's email address, which the request lacks.
    Remove(String, DeleteUserRequest),
}

/// What a change was answered with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    Record(Record),
    Batch(BatchWriteResponse),
    User(User),
    Nothing,
}

/// A row's name: `record TABLE/ID` or `user EMAIL`.
pub(crate) type Key = String;

/// A row's content, as far as it is known: the etag of a change without an answer isn't.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Content {
    pub(crate) text: String,
    pub(crate) etag: Option<String>,
}

/// All rows, or those of one writer.
pub(crate) type Rows = BTreeMap<Key, Content>;

/// A change that was sent.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) request: Request,
    /// Absent: unknown, the server died before.
    pub(crate) answer: Option<Answer>,
    /// When the answer had arrived, in nanoseconds since 1970.
    pub(crate) acknowledged: u64,
}

/// The changes of one writer, who sends the next when the last is answered and shares no row with others.
#[derive(Default)]
pub(crate) struct Ledger {
    /// What is certain: the rows before `entries`.
    settled: Rows,
    /// The rows after all acknowledged entries.
    rows: Rows,
    /// Since the last settling; at most the last one has no answer.
    entries: Vec<Entry>,
    /// The last of what was settled last.
    remembered: Vec<Entry>,
    /// So many of `entries` may be forgotten by the server.
    forgotten: usize,
}

impl Client {
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            users: UsersServiceClient::new(channel.clone()),
            records: RecordsServiceClient::new(channel.clone()).max_decoding_message_size(8 << 20),
            cluster: ClusterServiceClient::new(channel),
        }
    }

    /// Every record of these tables.
    pub(crate) async fn records(&mut self, tables: &[String]) -> Result<Rows, Status> {
        let mut rows = Rows::new();
        for table in tables {
            let mut request = ListRecordsRequest { table: table.clone(), page_size: 50, ..Default::default() };
            loop {
                let page = self.records.list_records(request.clone()).await?.into_inner();
                for record in page.records {
                    let former = rows.insert(record_key(&record.table, &record.id), record_content(&record));
                    assert!(former.is_none(), "{}/{} is listed twice", record.table, record.id);
                }
                request.page_token = page.next_page_token;
                if request.page_token.is_empty() {
                    break;
                }
            }
        }
        Ok(rows)
    }

    /// Every user.
    pub(crate) async fn users(&mut self) -> Result<Rows, Status> {
        let mut rows = Rows::new();
        let mut request = ListUsersRequest { page_size: 50, ..Default::default() };
        loop {
            let page = self.users.list_users(request.clone()).await?.into_inner();
            for user in page.users {
                let former = rows.insert(user_key(&user.email), user_content(&user));
                assert!(former.is_none(), "{} is listed twice", user.email);
            }
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return Ok(rows);
            }
        }
    }

    /// Lets the cell recompute its hashes, and fails if one is wrong.
    pub(crate) async fn check(&mut self) {
        let request = CheckRequest { request_id: ulid::Ulid::new().to_string() };
        let report = self.cluster.check(request).await.expect("a check").into_inner();
        assert!(report.ok, "the check found {report:#?}");
    }
}

impl Request {
    /// Sends it.
    pub(crate) async fn send(&self, client: &mut Client) -> Result<Answer, Status> {
        match self.clone() {
            Self::Put(request) => client.records.put_record(request).await.map(|r| Answer::Record(r.into_inner())),
            Self::Delete(request) => client.records.delete_record(request).await.map(|_| Answer::Nothing),
            Self::Batch(request) => client.records.batch_write(request).await.map(|r| Answer::Batch(r.into_inner())),
            Self::Create(request) => client.users.create_user(request).await.map(|r| Answer::User(r.into_inner())),
            Self::Update(_, request) => client.users.update_user(request).await.map(|r| Answer::User(r.into_inner())),
            Self::Remove(_, request) => client.users.delete_user(request).await.map(|_| Answer::Nothing),
        }
    }

    /// Its request id.
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Put(request) => &request.request_id,
            Self::Delete(request) => &request.request_id,
            Self::Batch(request) => &request.request_id,
            Self::Create(request) => &request.request_id,
            Self::Update(_, request) => &request.request_id,
            Self::Remove(_, request) => &request.request_id,
        }
    }

    /// What it makes of which rows; none: the row is gone.
    fn effects(&self, answer: Option<&Answer>) -> Vec<(Key, Option<Content>)> {
        let etag = match answer {
            Some(Answer::Record(record)) => Some(record.etag.clone()),
            Some(Answer::Batch(batch)) => Some(batch.etag.clone()),
            Some(Answer::User(user)) => Some(user.etag.clone()),
            Some(Answer::Nothing) | None => None,
        };
        let content = |text: String| Some(Content { text, etag: etag.clone() });
        let name = |user: &Option<User>| user.as_ref().map_or(String::new(), |user| user.first_name.clone());
        match self {
            Self::Put(request) => {
                vec![(record_key(&request.table, &request.id), content(format!("{:?}", request.document)))]
            }
            Self::Delete(request) => vec![(record_key(&request.table, &request.id), None)],
            Self::Batch(request) => {
                let kinds = request.operations.iter().filter_map(|operation| operation.kind.as_ref());
                let effect = |kind: &operation::Kind| match kind {
                    operation::Kind::Put(put) => {
                        (record_key(&put.table, &put.id), content(format!("{:?}", put.document)))
                    }
                    operation::Kind::Delete(delete) => (record_key(&delete.table, &delete.id), None),
                };
                kinds.map(effect).collect()
            }
            Self::Create(request) => {
                let email = request.user.as_ref().map_or("", |user| &user.email);
                vec![(user_key(email), content(name(&request.user)))]
            }
            Self::Update(email, request) => vec![(user_key(email), content(name(&request.user)))],
            Self::Remove(email, _) => vec![(user_key(email), None)],
        }
    }
}

impl Entry {
    /// The events that watchers must get of it, each once: row, and etag unless the row is gone.
    pub(crate) fn events(&self) -> impl Iterator<Item = (Key, Option<String>)> + use<> {
        let effects = self.request.effects(self.answer.as_ref());
        effects.into_iter().map(|(key, content)| (key, content.and_then(|content| content.etag)))
    }
}

impl Ledger {
    /// The rows as far as they are acknowledged.
    pub(crate) fn rows(&self) -> &Rows {
        &self.rows
    }

    /// What was sent since the last settling.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Sends a change and notes its answer; an error leaves it open.
    pub(crate) async fn send(&mut self, request: Request, client: &mut Client) -> Result<Answer, Status> {
        self.entries.push(Entry { request: request.clone(), answer: None, acknowledged: 0 });
        let answer = request.send(client).await?;
        self.acknowledge(answer.clone());
        Ok(answer)
    }

    /// Holds what the server has against what was acknowledged: the server must have the first `k` changes and no
    /// other, where `k` counts at least all that were acknowledged by a moment. Returns `k`.
    pub(crate) fn verify(&self, found: &Rows, acknowledged_by: u64) -> usize {
        let certain = |entry: &&Entry| entry.answer.is_some() && entry.acknowledged <= acknowledged_by;
        let least = self.entries.iter().take_while(certain).count();
        let mut rows = self.settled.clone();
        let mut at_least = Rows::new();
        for count in 0..=self.entries.len() {
            if count == least {
                at_least = rows.clone();
            }
            if count >= least && matches(&rows, found) {
                return count;
            }
            if let Some(entry) = self.entries.get(count) {
                apply(&mut rows, entry);
            }
        }
        panic!(
            "of {} changes, {least} acknowledged, the server has neither those nor more:\n{}",
            self.entries.len(),
            difference(&at_least, found)
        );
    }

    /// Sends the open change again, if there is one, and some of the acknowledged ones: each must have its first
    /// answer. `applied` is what [`Ledger::verify`] returned.
    pub(crate) async fn settle(&mut self, client: &mut Client, found: &Rows, applied: usize) {
        if let Some(open) = self.entries.last().filter(|entry| entry.answer.is_none()).cloned() {
            let answer = open.request.send(client).await;
            let answer = answer.unwrap_or_else(|status| panic!("a retry of {:?} is answered {status}", open.request));
            self.acknowledge(answer.clone());
            if applied == self.entries.len() {
                for (key, content) in open.request.effects(Some(&answer)) {
                    assert_eq!(found.get(&key), content.as_ref(), "{key} was written again by the retry of {open:?}");
                }
            }
        }
        let recent = self.entries[self.forgotten..].iter().rev().step_by(5);
        for entry in self.remembered.iter().step_by(7).chain(recent) {
            retry(entry, client).await;
        }
    }

    /// Everything sent is certain from now on.
    pub(crate) fn close(&mut self) -> Vec<Entry> {
        let entries = std::mem::take(&mut self.entries);
        assert!(entries.iter().all(|entry| entry.answer.is_some()), "a change is open");
        self.settled = self.rows.clone();
        let recent = &entries[self.forgotten..];
        self.remembered = recent[recent.len().saturating_sub(REMEMBERED)..].to_vec();
        self.forgotten = 0;
        entries
    }

    /// Forgets what could be tried again: the server no longer remembers it.
    pub(crate) fn forget(&mut self) {
        self.remembered.clear();
        self.forgotten = self.entries.len();
    }

    fn acknowledge(&mut self, answer: Answer) {
        if let Some(entry) = self.entries.last_mut() {
            entry.answer = Some(answer);
            entry.acknowledged = now();
            apply(&mut self.rows, entry);
        }
    }
}

/// Sends an acknowledged change again.
pub(crate) async fn retry(entry: &Entry, client: &mut Client) {
    let again = entry.request.send(client).await;
    let again = again.unwrap_or_else(|status| panic!("a retry of {:?} is answered {status}", entry.request));
    assert_eq!(Some(again), entry.answer, "a retry of {:?} has another answer than the first", entry.request);
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

pub(crate) fn record_key(table: &str, id: &str) -> Key {
    format!("record {table}/{id}")
}

pub(crate) fn user_key(email: &str) -> Key {
    format!("user {email}")
}

fn record_content(record: &Record) -> Content {
    Content { text: format!("{:?}", record.document), etag: Some(record.etag.clone()) }
}

fn user_content(user: &User) -> Content {
    Content { text: user.first_name.clone(), etag: Some(user.etag.clone()) }
}

fn apply(rows: &mut Rows, entry: &Entry) {
    for (key, content) in entry.request.effects(entry.answer.as_ref()) {
        match content {
            Some(content) => rows.insert(key, content),
            None => rows.remove(&key),
        };
    }
}

fn fits(expected: &Content, found: &Content) -> bool {
    expected.text == found.text && (expected.etag.is_none() || expected.etag == found.etag)
}

fn matches(expected: &Rows, found: &Rows) -> bool {
    let mut pairs = expected.iter().zip(found);
    expected.len() == found.len() && pairs.all(|((key, row), (other, found))| key == other && fits(row, found))
}

fn difference(expected: &Rows, found: &Rows) -> String {
    let keys: BTreeSet<&Key> = expected.keys().chain(found.keys()).collect();
    let differs = |key: &&Key| match (expected.get(*key), found.get(*key)) {
        (Some(row), Some(found)) => !fits(row, found),
        _ => true,
    };
    let line =
        |key: &Key| format!("{key}:\n  acknowledged {:?}\n  found        {:?}", expected.get(key), found.get(key));
    keys.into_iter().filter(differs).map(line).collect::<Vec<_>>().join("\n")
}
