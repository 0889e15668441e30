//! AddMember.

use flotilla_kit::{Call, Committed, Context, Error, Intent, Violations, time};
use flotilla_proto::threads::v1::{AddMemberRequest, Member};
use prost::Message;

use crate::{
    membership::{self, ATTEMPTS, Turns},
    people::People,
    refusals, row, rules,
    tables::{MEMBERS, THREADS, member_key},
};

/// Where in the transaction's results the sequence of the joining is: after
/// the thread and the member.
const SEQUENCE: usize = 2;

pub(crate) async fn add(
    context: &Context,
    turns: &Turns,
    call: &Call,
    mut request: AddMemberRequest,
) -> Result<(u64, Member), Error> {
    let request_id = std::mem::take(&mut request.request_id);
    let intent = Intent::of(call, request_id.clone(), &request)?;
    let caller = rules::caller(call)?;
    let AddMemberRequest { thread_id: thread, user_id: user, .. } = request;
    let mut violations = Violations::default();
    violations.check(rules::thread_id("thread_id", &thread));
    violations.check(rules::user_id("user_id", &user));
    violations.finish()?;
    let _turn = turns.take(call, &thread).await?;

    for _ in 0..ATTEMPTS {
        let (people, found) = match joinable(context, call, &thread, caller, &user).await {
            Ok(joinable) => joinable,
            // A retry finds the member that its first time has made.
            Err(error) => match context.first_answer(call, &intent).await? {
                Some(committed) => return answer(&committed),
                None => return Err(error),
            },
        };
        let Some(person) = people.people.first() else { return Err(refusals::user_not_found(&user)) };
        let member = Member { user_id: user.clone(), display_name: person.display_name.clone(), ..Member::default() };
        let before = row::decode_thread(&thread, &found, 0)?;
        let transaction = people
            .unchanged(context.transaction())
            .row_at(THREADS, thread.clone(), found.revision)
            .row_exists(MEMBERS, member_key(&thread, caller))
            .row_absent(MEMBERS, member_key(&thread, &user))
            .put(THREADS, thread.clone(), row::encode_thread(&before.display_name, before.member_count + 1));
        let transaction = membership::join(transaction, &thread, caller, &request_id, person);
        match context.commit(call, &intent, transaction, &member.encode_to_vec()).await {
            Ok(committed) => return answer(&committed),
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::Conflict { condition: 0 })
}

/// The user to add and the thread's row, if the user can join.
async fn joinable(
    context: &Context,
    call: &Call,
    thread: &str,
    caller: &str,
    user: &str,
) -> Result<(People, flotilla_kit::Row), Error> {
    let view = context.latest(call).await?;
    membership::require(&view, thread, caller)?;
    if view.get(MEMBERS, member_key(thread, user).as_bytes())?.is_some() {
        return Err(refusals::member_exists(thread, user));
    }
    let found = view.get(THREADS, thread.as_bytes())?.ok_or_else(|| refusals::thread_not_found(thread))?;
    let members = row::decode_thread(thread, &found, 0)?.member_count;
    if members >= rules::MAX_MEMBERS {
        let (max, actual) = (rules::MAX_MEMBERS as u64, members as u64 + 1);
        return Err(Error::LimitExceeded { limit: "members", max, actual });
    }
    Ok((People::ask(context, call, std::iter::once(user)).await?, found))
}

/// The member as it joined, also for a retry.
fn answer(committed: &Committed) -> Result<(u64, Member), Error> {
    let member = Member::decode(committed.answer.clone()).map_err(Error::internal)?;
    let join_sequence = committed.results.get(SEQUENCE).copied().unwrap_or(0);
    let join_time = Some(time::timestamp(committed.time));
    Ok((committed.revision, Member { join_sequence, join_time, ..member }))
}
