//! UpdateThread: another name, told to the members.

use flotilla_kit::{Call, Context, Error, Intent, Violations, etag, mask};
use flotilla_proto::threads::v1::{Thread, ThreadRenamed, UpdateThreadRequest, event::Kind};
use prost::Message;

use crate::{
    events, get,
    membership::{self, ATTEMPTS},
    refusals, row, rules,
    tables::{EVENTS, MEMBERS, THREADS, member_key},
};

const SETTABLE: &[&str] = &["display_name"];

pub(crate) async fn update(
    context: &Context,
    call: &Call,
    mut request: UpdateThreadRequest,
) -> Result<(u64, Thread), Error> {
    let request_id = std::mem::take(&mut request.request_id);
    let intent = Intent::of(call, request_id.clone(), &request)?;
    let caller = rules::caller(call)?;
    let UpdateThreadRequest { thread, update_mask, .. } = request;
    let Thread { id, display_name, etag, .. } = thread.unwrap_or_default();
    let mut violations = Violations::default();
    violations.check(rules::thread_id("thread.id", &id));
    let etag = violations.check(etag::parse("thread.etag", &etag));
    let fields = violations.check(mask::resolve(update_mask.as_ref(), SETTABLE, |_| !display_name.is_empty()));
    if !fields.is_empty() {
        violations.check(rules::display_name("thread.display_name", &display_name));
    }
    violations.finish()?;

    for _ in 0..ATTEMPTS {
        let view = context.latest(call).await?;
        let found = match (membership::require(&view, &id, caller), view.get(THREADS, id.as_bytes())?) {
            (Ok(_), Some(found)) if etag.is_none_or(|etag| etag == found.revision) => found,
            (member, found) => {
                // A retry finds what its first time has left behind.
                if let Some(committed) = context.first_answer(call, &intent).await? {
                    return answer(context, call, &committed).await;
                }
                member?;
                return Err(found.map_or(refusals::thread_not_found(&id), |newer| refusals::stale(&id, newer.revision)));
            }
        };
        let before = row::decode_thread(&id, &found, 0)?;
        let mut after = before.clone();
        let mut transaction = context
            .transaction()
            .row_at(THREADS, id.clone(), found.revision)
            .row_exists(MEMBERS, member_key(&id, caller));
        if !fields.is_empty() && display_name != before.display_name {
            // Revision and times are those of the transaction, not known yet.
            (after.etag, after.create_time, after.update_time) = (String::new(), None, None);
            after.display_name.clone_from(&display_name);
            let renamed =
                ThreadRenamed { display_name: display_name.clone(), previous_display_name: before.display_name };
            let event = events::event(caller, &request_id, Kind::ThreadRenamed(renamed));
            transaction = transaction
                .put(THREADS, id.clone(), row::encode_thread(&display_name, after.member_count))
                .append(EVENTS, id.clone(), events::encode(&event));
        }
        match context.commit(call, &intent, transaction, &after.encode_to_vec()).await {
            Ok(committed) => return answer(context, call, &committed).await,
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::Conflict { condition: 0 })
}

/// The thread after the change, also for a retry. One that was left as it was
/// has an etag already.
async fn answer(context: &Context, call: &Call, committed: &flotilla_kit::Committed) -> Result<(u64, Thread), Error> {
    let mut thread = Thread::decode(committed.answer.clone()).map_err(Error::internal)?;
    if thread.etag.is_empty() {
        thread = row::written(thread, committed);
    }
    let view = context.latest(call).await?;
    thread.last_sequence = get::find(&view, &thread.id)?.map_or(0, |now| now.last_sequence);
    Ok((committed.revision, thread))
}
