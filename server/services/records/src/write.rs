//! What put, delete and batch have in common: one transaction of writes, each
//! with what must be true of its row, and what it means when it isn't.

use bytes::Bytes;
use flotilla_kit::{
    Call, Committed, Context, Error, Intent, Refusal, Row, TransactionBuilder, Violations, document, etag,
    fields::FieldViolation,
};
use flotilla_proto::{
    errors::v1::Reason,
    records::v1::operation::{Delete, Put},
};
use prost::Message;
use prost_types::Struct;

use crate::rules::{self, Place};

const RECORD: &str = "flotilla.records.v1.Record";
/// Bytes of a record with all its fields.
const MAX_RECORD: usize = 1024 * 1024;
/// Bytes that a record takes beside its table, id and document, at most.
const OTHER_FIELDS: usize = 64;
/// How often writes are tried anew when others get in between.
const ATTEMPTS: usize = 8;

/// One row to write or remove.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) table: String,
    pub(crate) id: String,
    place: Place,
    only: Only,
    /// The encoded document; none: remove the row.
    value: Option<Bytes>,
}

/// What must be true of a row for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Only {
    Always,
    IfAbsent,
    IfPresent,
    IfAt(u64),
    /// A transaction can't ask for either, so it asks for what it finds.
    IfAbsentOrAt(u64),
}

impl Write {
    /// A put, and its document back: it is needed for the answer.
    pub(crate) fn put(violations: &mut Violations, place: Place, put: Put) -> Result<(Self, Struct), Error> {
        let Put { table, id, document, etag, create_only } = put;
        let document = document.unwrap_or_default();
        rules::check_name(violations, place, &table, &id);
        violations.check(document::check(&place.field("document"), &document));
        let only = match parsed(violations, place, &etag) {
            Some(_) if create_only => {
                violations.add(place.field("etag"), "can't be asked for together with create_only");
                Only::Always
            }
            Some(revision) => Only::IfAt(revision),
            None if create_only => Only::IfAbsent,
            None => Only::Always,
        };
        let value = Bytes::from(document.encode_to_vec());
        let size = value.len() + table.len() + id.len() + OTHER_FIELDS;
        if size > MAX_RECORD {
            let message = format!("a record of {size} bytes; at most {MAX_RECORD} are possible: split the document");
            let refusal = Refusal::new(Reason::LimitExceeded, message);
            let refusal = refusal.with("limit", "record_bytes").with("max", MAX_RECORD).with("actual", size);
            return Err(at(place, refusal).into());
        }
        Ok((Self { table, id, place, only, value: Some(value) }, document))
    }

    pub(crate) fn delete(violations: &mut Violations, place: Place, delete: Delete) -> Self {
        let Delete { table, id, etag, allow_missing } = delete;
        rules::check_name(violations, place, &table, &id);
        let only = match (parsed(violations, place, &etag), allow_missing) {
            (None, true) => Only::Always,
            (None, false) => Only::IfPresent,
            (Some(revision), true) => Only::IfAbsentOrAt(revision),
            (Some(revision), false) => Only::IfAt(revision),
        };
        Self { table, id, place, only, value: None }
    }

    /// The encoded document, of a put.
    pub(crate) fn value(&self) -> &[u8] {
        self.value.as_deref().unwrap_or_default()
    }

    /// Where the request names it.
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    fn is_put(&self) -> bool {
        self.value.is_some()
    }

    fn added_to(&self, transaction: TransactionBuilder, found: Option<&Row>) -> TransactionBuilder {
        let (table, key) = (&self.table, self.id.clone());
        let transaction = match self.only {
            Only::Always => transaction,
            Only::IfAbsent => transaction.row_absent(table, key.clone()),
            Only::IfPresent => transaction.row_exists(table, key.clone()),
            Only::IfAbsentOrAt(_) if found.is_none() => transaction.row_absent(table, key.clone()),
            Only::IfAt(revision) | Only::IfAbsentOrAt(revision) => transaction.row_at(table, key.clone(), revision),
        };
        match &self.value {
            Some(value) => transaction.put(table, key, value.clone()),
            None => transaction.delete(table, key),
        }
    }

    /// Why the write can't be done on the row as it was found; none if it can.
    fn refusal(&self, found: Option<&Row>) -> Option<Refusal> {
        let missing = || not_found(&self.table, &self.id);
        let stale =
            |current: Option<u64>| etag::stale(format!("record {:?} of table {}", self.id, self.table), current);
        let refusal = match (self.only, found) {
            (Only::IfAbsent, Some(_)) => {
                let message = format!(
                    "table {} has a record {:?} already: put it without create_only, or choose another id",
                    self.table, self.id
                );
                Refusal::new(Reason::RecordExists, message).with("table", &self.table).with("record_id", &self.id)
            }
            (Only::IfPresent, None) => missing(),
            (Only::IfAt(_), None) if self.is_put() => stale(None),
            (Only::IfAt(_), None) => missing(),
            (Only::IfAt(wanted) | Only::IfAbsentOrAt(wanted), Some(row)) if row.revision != wanted => {
                stale(Some(row.revision))
            }
            _ => return None,
        };
        Some(at(self.place, refusal.about(RECORD, resource_name(&self.table, &self.id))))
    }
}

/// Makes the writes happen, all or none, once for an intent.
///
/// # Errors
/// The refusal of the first write whose row isn't as it must be; or what keeps
/// the log from taking them.
pub(crate) async fn commit(
    context: &Context,
    call: &Call,
    intent: &Intent,
    writes: &[Write],
) -> Result<Committed, Error> {
    let undecided = writes.iter().any(|write| matches!(write.only, Only::IfAbsentOrAt(_)));
    for _ in 0..ATTEMPTS {
        let view = if undecided { Some(context.latest(call).await?) } else { None };
        let mut transaction = context.transaction();
        for write in writes {
            let found = match (write.only, &view) {
                (Only::IfAbsentOrAt(_), Some(view)) => view.get(&write.table, write.id.as_bytes())?,
                _ => None,
            };
            transaction = write.added_to(transaction, found.as_ref());
        }
        match context.commit(call, intent, transaction, &[]).await {
            Err(Error::Conflict { condition }) => {
                let mut conditional = writes.iter().filter(|write| write.only != Only::Always);
                let write = conditional.nth(condition).ok_or(Error::Conflict { condition })?;
                let found = context.latest(call).await?.get(&write.table, write.id.as_bytes())?;
                // None when the row has become what it must be just now.
                if let Some(refusal) = write.refusal(found.as_ref()) {
                    return Err(refusal.into());
                }
            }
            other => return other,
        }
    }
    Err(Error::Conflict { condition: 0 })
}

/// The refusal of what only a record that exists can have done to it.
pub(crate) fn not_found(table: &str, id: &str) -> Refusal {
    let refusal = Refusal::new(Reason::RecordNotFound, format!("table {table} has no record {id:?}"));
    refusal.with("table", table).with("record_id", id).about(RECORD, resource_name(table, id))
}

fn resource_name(table: &str, id: &str) -> String {
    format!("{table}/{id}")
}

fn parsed(violations: &mut Violations, place: Place, etag: &str) -> Option<u64> {
    let parsed = etag::parse("etag", etag);
    violations.check(parsed.map_err(|violation| FieldViolation::new(place.field("etag"), violation.problem)))
}

/// A refusal in a batch says of which operation.
fn at(place: Place, refusal: Refusal) -> Refusal {
    match place {
        Place::Request => refusal,
        Place::Operation(index, _) => refusal.with("operation", index),
    }
}
