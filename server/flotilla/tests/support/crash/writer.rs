//! Writers: each changes its own few records and users, one change after the other, until the server is gone.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use flotilla_proto::{
    records::v1::{BatchWriteRequest, DeleteRecordRequest, Operation, PutRecordRequest, operation},
    users::v1::{CreateUserRequest, DeleteUserRequest, UpdateUserRequest, User},
};
use prost_types::{Struct, Value, value::Kind};
use rand::{Rng, rngs::StdRng};

use super::ledger::{Answer, Client, Entry, Key, Ledger, Request, Rows, record_key, user_key};

/// Tables that writers share; their records are their own.
const TABLES: usize = 3;
/// Records of a writer.
const RECORDS: usize = 5;
/// Users of a writer.
const USERS: usize = 3;

/// Set just before a server is killed: errors are expected from then on.
pub(crate) type Ending = Arc<AtomicBool>;

/// One writer.
pub(crate) struct Writer {
    pub(crate) ledger: Ledger,
    number: usize,
    random: StdRng,
    count: u64,
    /// Bytes of a document are below this.
    padding: usize,
    /// The ids of its users, by email address.
    ids: BTreeMap<String, String>,
}

impl Writer {
    pub(crate) fn new(number: usize, random: StdRng, padding: usize) -> Self {
        Self { ledger: Ledger::default(), number, random, count: 0, padding, ids: BTreeMap::new() }
    }

    /// Of all rows, those of this writer.
    pub(crate) fn own(&self, rows: &Rows) -> Rows {
        let marks = [format!("/w{}-", self.number), format!(" w{}-", self.number)];
        let own = |key: &Key| marks.iter().any(|mark| key.contains(mark));
        rows.iter().filter(|(key, _)| own(key)).map(|(key, content)| (key.clone(), content.clone())).collect()
    }

    /// Writes until the server is gone.
    pub(crate) async fn write(mut self, mut client: Client, ending: Ending) -> Self {
        loop {
            match self.write_one(&mut client).await {
                Ok(()) => {}
                Err(_) if ending.load(Ordering::Acquire) => return self,
                Err(status) => panic!("{:?} was answered {status}", self.ledger.entries().last()),
            }
        }
    }

    async fn write_one(&mut self, client: &mut Client) -> Result<(), tonic::Status> {
        self.count += 1;
        let request = self.next();
        self.ledger.send(request, client).await?;
        self.note_ids();
        Ok(())
    }

    /// Holds the server's rows against the ledger, finishes what was open, and returns what is certain now.
    pub(crate) async fn settle(&mut self, client: &mut Client, rows: &Rows) -> Vec<Entry> {
        let own = self.own(rows);
        let applied = self.ledger.verify(&own, u64::MAX);
        self.ledger.settle(client, &own, applied).await;
        self.note_ids();
        self.ledger.close()
    }

    fn note_ids(&mut self) {
        if let Some(Answer::User(user)) = self.ledger.entries().last().and_then(|entry| entry.answer.as_ref()) {
            self.ids.insert(user.email.clone(), user.id.clone());
        }
    }

    fn next(&mut self) -> Request {
        match self.random.random_range(0..10) {
            0..5 => self.put_or_delete(),
            5..7 => self.batch(),
            _ => self.user(),
        }
    }

    fn put_or_delete(&mut self) -> Request {
        let record = self.random.random_range(0..RECORDS);
        let (table, id) = self.record(record);
        let request_id = new_id();
        let there = self.ledger.rows().get(&record_key(&table, &id)).map(|content| content.etag.clone());
        let is_there = there.is_some();
        // A condition now and then.
        let etag = there.flatten().filter(|_| self.random.random_bool(0.3)).unwrap_or_default();
        if is_there && self.random.random_bool(0.2) {
            return Request::Delete(DeleteRecordRequest { table, id, etag, request_id, ..Default::default() });
        }
        let document = Some(self.document());
        Request::Put(PutRecordRequest { table, id, document, etag, request_id, ..Default::default() })
    }

    fn batch(&mut self) -> Request {
        let first = self.random.random_range(0..RECORDS);
        let operations = (0..3).map(|offset| {
            let (table, id) = self.record((first + offset) % RECORDS);
            let document = Some(self.document());
            let put = operation::Put { table, id, document, ..Default::default() };
            Operation { kind: Some(operation::Kind::Put(put)) }
        });
        let operations = operations.collect();
        Request::Batch(BatchWriteRequest { operations, request_id: new_id() })
    }

    fn user(&mut self) -> Request {
        let email = format!("w{}-{}@example.org", self.number, self.random.random_range(0..USERS));
        let request_id = new_id();
        let first_name = format!("{}-{}", self.number, self.count);
        let id = self.ids.get(&email).cloned().unwrap_or_default();
        if !self.ledger.rows().contains_key(&user_key(&email)) {
            let user = Some(User { email, first_name, ..Default::default() });
            return Request::Create(CreateUserRequest { user, request_id });
        }
        if self.random.random_bool(0.2) {
            return Request::Remove(email, DeleteUserRequest { id, request_id, ..Default::default() });
        }
        let user = Some(User { id, first_name, ..Default::default() });
        let update_mask = Some(prost_types::FieldMask { paths: vec!["first_name".into()] });
        Request::Update(email, UpdateUserRequest { user, update_mask, request_id })
    }

    fn record(&self, record: usize) -> (String, String) {
        (table(self.number + record), format!("w{}-{record}", self.number))
    }

    /// One that no other change has.
    fn document(&mut self) -> Struct {
        let padding = "x".repeat(self.random.random_range(0..self.padding));
        let text = |text: String| Value { kind: Some(Kind::StringValue(text)) };
        let fields = [("count", text(self.count.to_string())), ("padding", text(padding))];
        Struct { fields: fields.map(|(name, value)| (name.to_owned(), value)).into() }
    }
}

/// The name of a shared table.
pub(crate) fn table(number: usize) -> String {
    format!("t{}", number % TABLES)
}

/// Every table that writers write.
pub(crate) fn tables() -> Vec<String> {
    (0..TABLES).map(table).collect()
}

/// A new request id.
pub(crate) fn new_id() -> String {
    ulid::Ulid::new().to_string()
}
