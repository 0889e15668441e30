//! Ack: how far a device has come, kept where no crash reaches it.

use flotilla_kit::{Call, Context, Error, Intent, TransactionBuilder, View, Violations};
use flotilla_proto::threads::v1::{AckRequest, AckResponse, ThreadCursor};
use prost::Message;

use crate::{
    membership::{self, ATTEMPTS},
    refusals,
    row::{self, CursorRow},
    rules,
    tables::{CURSORS, MEMBERS, cursor_key, member_key},
};

pub(crate) async fn ack(context: &Context, call: &Call, mut request: AckRequest) -> Result<(u64, AckResponse), Error> {
    let request_id = std::mem::take(&mut request.request_id);
    let intent = Intent::of(call, request_id, &request)?;
    let caller = rules::caller(call)?;
    let device = call.require_device()?;
    let mut violations = Violations::default();
    rules::cursors(&mut violations, &request.cursors);
    if request.cursors.is_empty() {
        violations.add("cursors", "is empty; there is nothing to store");
    }
    violations.finish()?;
    if request.cursors.len() > rules::MAX_ACKS {
        let (max, actual) = (rules::MAX_ACKS as u64, request.cursors.len() as u64);
        return Err(Error::LimitExceeded { limit: "cursors", max, actual });
    }
    if request.cursors.iter().any(|cursor| cursor.history != context.history()) {
        return Err(Error::HistoryChanged { ours: context.history().to_owned() });
    }

    for _ in 0..ATTEMPTS {
        let view = context.latest(call).await?;
        let (transaction, stored) = match step(context, &view, (caller, device), &request.cursors) {
            Ok(step) => step,
            // A retry may find that its first time was the last that was allowed.
            Err(error) => match context.first_answer(call, &intent).await? {
                Some(committed) => return Ok((committed.revision, AckResponse { cursors: request.cursors })),
                None => return Err(error),
            },
        };
        // A request that changes nothing is remembered all the same: ids are for one body.
        match context.commit(call, &intent, transaction, &[]).await {
            Ok(committed) => return Ok((committed.revision, AckResponse { cursors: stored })),
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::Conflict { condition: 0 })
}

/// What moves a device's places, and where they are then.
fn step(
    context: &Context,
    view: &View,
    (caller, device): (&str, &str),
    cursors: &[ThreadCursor],
) -> Result<(TransactionBuilder, Vec<ThreadCursor>), Error> {
    let mut transaction = context.transaction();
    let mut stored = Vec::with_capacity(cursors.len());
    for cursor in cursors {
        let ThreadCursor { thread_id: thread, history, sequence } = cursor;
        membership::require(view, thread, caller)?;
        let last = membership::last_sequence(view, thread)?;
        if *sequence > last {
            return Err(refusals::sequence_in_future(thread, *sequence, last));
        }
        let known = find(view, thread, caller, device)?;
        let current = known.as_ref().filter(|(_, known)| known.history == *history);
        let reached = current.map_or(*sequence, |(_, known)| known.sequence.max(*sequence));
        if current.is_none_or(|(_, known)| known.sequence < *sequence) {
            let key = cursor_key(thread, caller, device);
            let value = CursorRow { history: history.clone(), sequence: *sequence };
            if known.is_none() {
                transaction = forget_oldest(transaction, view, thread, caller)?;
            }
            transaction = transaction
                .row_exists(MEMBERS, member_key(thread, caller))
                .row_at(CURSORS, key.clone(), known.map_or(0, |(revision, _)| revision))
                .put(CURSORS, key, value.encode_to_vec());
        }
        stored.push(ThreadCursor { sequence: reached, ..cursor.clone() });
    }
    Ok((transaction, stored))
}

/// Makes room for a new device: of too many, the one goes that was silent for
/// the longest time. It starts with the joining when it comes back.
fn forget_oldest(
    transaction: TransactionBuilder,
    view: &View,
    thread: &str,
    user: &str,
) -> Result<TransactionBuilder, Error> {
    let rows = view.scan_prefix(CURSORS, member_key(thread, user).as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let oldest = rows.iter().min_by_key(|(_, row)| row.update_time).filter(|_| rows.len() >= rules::MAX_DEVICES);
    Ok(match oldest {
        Some((key, _)) => transaction.delete(CURSORS, key.clone()),
        None => transaction,
    })
}

/// What is stored of a device in a thread, and the revision of its row.
pub(crate) fn find(view: &View, thread: &str, user: &str, device: &str) -> Result<Option<(u64, CursorRow)>, Error> {
    let row = view.get(CURSORS, cursor_key(thread, user, device).as_bytes())?;
    row.map(|row| Ok((row.revision, row::decode_cursor(&row)?))).transpose()
}
