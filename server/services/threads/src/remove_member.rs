//! RemoveMember.

use flotilla_kit::{Call, Context, Error, Intent, Violations};
use flotilla_proto::threads::v1::RemoveMemberRequest;

use crate::{
    membership::{self, ATTEMPTS, Turns},
    refusals, row, rules,
    tables::{MEMBERS, THREADS, member_key},
};

pub(crate) async fn remove(
    context: &Context,
    turns: &Turns,
    call: &Call,
    mut request: RemoveMemberRequest,
) -> Result<u64, Error> {
    let request_id = std::mem::take(&mut request.request_id);
    let intent = Intent::of(call, request_id.clone(), &request)?;
    let caller = rules::caller(call)?;
    let RemoveMemberRequest { thread_id: thread, user_id: user, .. } = request;
    let mut violations = Violations::default();
    violations.check(rules::thread_id("thread_id", &thread));
    violations.check(rules::user_id("user_id", &user));
    violations.finish()?;
    let _turn = turns.take(call, &thread).await?;

    for _ in 0..ATTEMPTS {
        let found = match removable(context, call, &thread, caller, &user).await {
            Ok(found) => found,
            // A retry finds nobody, because its first time has removed them.
            Err(error) => match context.first_answer(call, &intent).await? {
                Some(committed) => return Ok(committed.revision),
                None => return Err(error),
            },
        };
        let before = row::decode_thread(&thread, &found, 0)?;
        let transaction = context
            .transaction()
            .row_at(THREADS, thread.clone(), found.revision)
            .row_exists(MEMBERS, member_key(&thread, caller))
            .row_exists(MEMBERS, member_key(&thread, &user))
            .put(THREADS, thread.clone(), row::encode_thread(&before.display_name, before.member_count - 1));
        let transaction = membership::leave(transaction, &thread, caller, &request_id, &user);
        match context.commit(call, &intent, transaction, &[]).await {
            Ok(committed) => return Ok(committed.revision),
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::Conflict { condition: 0 })
}

/// The thread's row, if the user can leave.
async fn removable(
    context: &Context,
    call: &Call,
    thread: &str,
    caller: &str,
    user: &str,
) -> Result<flotilla_kit::Row, Error> {
    let view = context.latest(call).await?;
    membership::require(&view, thread, caller)?;
    if view.get(MEMBERS, member_key(thread, user).as_bytes())?.is_none() {
        return Err(refusals::member_not_found(thread, user));
    }
    view.get(THREADS, thread.as_bytes())?.ok_or_else(|| refusals::thread_not_found(thread))
}
