//! CreateThread.

use flotilla_kit::{Call, Context, Error, Intent, Violations};
use flotilla_proto::threads::v1::{CreateThreadRequest, Thread};
use prost::Message;
use ulid::Ulid;

use crate::{
    membership::{self, ATTEMPTS},
    people::People,
    row, rules,
    tables::THREADS,
};

pub(crate) async fn create(
    context: &Context,
    call: &Call,
    mut request: CreateThreadRequest,
) -> Result<(u64, Thread), Error> {
    let request_id = std::mem::take(&mut request.request_id);
    let intent = Intent::of(call, request_id.clone(), &request)?;
    let caller = rules::caller(call)?;
    let CreateThreadRequest { thread, member_user_ids, .. } = request;
    let display_name = thread.unwrap_or_default().display_name;
    let mut violations = Violations::default();
    violations.check(rules::display_name("thread.display_name", &display_name));
    for (position, user) in member_user_ids.iter().enumerate() {
        violations.check(rules::user_id(&format!("member_user_ids[{position}]"), user));
    }
    violations.finish()?;
    if member_user_ids.len() > rules::MAX_FIRST_MEMBERS {
        let (max, actual) = (rules::MAX_FIRST_MEMBERS as u64, member_user_ids.len() as u64);
        return Err(Error::LimitExceeded { limit: "member_user_ids", max, actual });
    }
    let mut users = vec![caller];
    for user in &member_user_ids {
        if !users.contains(&user.as_str()) {
            users.push(user);
        }
    }
    let id = Ulid::new().to_string();

    for _ in 0..ATTEMPTS {
        let people = match People::ask(context, call, users.iter().copied()).await {
            Ok(people) => people,
            // Who isn't there any more may have been when this was asked first.
            Err(error) => match context.first_answer(call, &intent).await? {
                Some(committed) => return answer(&committed),
                None => return Err(error),
            },
        };
        let members = people.people.len();
        let thread = Thread {
            id: id.clone(),
            display_name: display_name.clone(),
            member_count: members as i32,
            last_sequence: members as u64,
            ..Thread::default()
        };
        let stored = row::encode_thread(&display_name, thread.member_count);
        let mut transaction = people.unchanged(context.transaction()).put(THREADS, id.clone(), stored);
        for person in &people.people {
            transaction = membership::join(transaction, &id, caller, &request_id, person);
        }
        match context.commit(call, &intent, transaction, &thread.encode_to_vec()).await {
            Ok(committed) => return answer(&committed),
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::Conflict { condition: 0 })
}

/// The thread as it was created, also for a retry.
fn answer(committed: &flotilla_kit::Committed) -> Result<(u64, Thread), Error> {
    let thread = Thread::decode(committed.answer.clone()).map_err(Error::internal)?;
    Ok((committed.revision, row::written(thread, committed)))
}
