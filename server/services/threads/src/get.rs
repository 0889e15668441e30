//! GetThread.

use flotilla_kit::{Call, Context, Error, View};
use flotilla_proto::threads::v1::{GetThreadRequest, Thread};

use crate::{membership, refusals, row, rules, tables::THREADS};

pub(crate) async fn get(context: &Context, call: &Call, request: GetThreadRequest) -> Result<(u64, Thread), Error> {
    let caller = rules::caller(call)?;
    rules::thread_id("id", &request.id)?;
    let view = context.read(call).await?;
    membership::require(&view, &request.id, caller)?;
    let thread = find(&view, &request.id)?.ok_or_else(|| refusals::thread_not_found(&request.id))?;
    Ok((view.revision(), thread))
}

/// A thread as it is answered.
pub(crate) fn find(view: &View, id: &str) -> Result<Option<Thread>, Error> {
    let Some(found) = view.get(THREADS, id.as_bytes())? else { return Ok(None) };
    row::decode_thread(id, &found, membership::last_sequence(view, id)?).map(Some)
}
