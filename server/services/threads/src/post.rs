//! PostMessage: one condition and one append, so that posts to one thread never
//! get in each other's way.

use flotilla_kit::{Call, Context, Error, Intent, Violations, document, time};
use flotilla_proto::threads::v1::{Event, PostMessageRequest, event::Kind};

use crate::{
    events, membership, rules,
    tables::{EVENTS, MEMBERS, member_key},
};

pub(crate) async fn post(
    context: &Context,
    call: &Call,
    mut request: PostMessageRequest,
) -> Result<(u64, Event), Error> {
    let request_id = std::mem::take(&mut request.request_id);
    let intent = Intent::of(call, request_id.clone(), &request)?;
    let caller = rules::caller(call)?;
    let PostMessageRequest { thread_id: thread, message, .. } = request;
    let message = message.unwrap_or_default();
    let mut violations = Violations::default();
    violations.check(rules::thread_id("thread_id", &thread));
    match &message.data {
        Some(data) => violations.check(document::check("message.data", data)),
        None if message.text.is_empty() => violations.add("message", "is empty; a message has text, data, or both"),
        None => {}
    }
    violations.finish()?;
    let event = events::event(caller, &request_id, Kind::Message(message));
    let length = events::encoded_len(&thread, &event);
    if length > rules::MAX_EVENT {
        let (max, actual) = (rules::MAX_EVENT as u64, length as u64);
        return Err(Error::LimitExceeded { limit: "event_bytes", max, actual });
    }

    let transaction = context.transaction().row_exists(MEMBERS, member_key(&thread, caller)).append(
        EVENTS,
        thread.clone(),
        events::encode(&event),
    );
    match context.commit(call, &intent, transaction, &[]).await {
        Ok(committed) => {
            // A retry has the same body, so the first answer is made of it.
            let sequence = committed.results.first().copied().unwrap_or(0);
            let time = Some(time::timestamp(committed.time));
            Ok((committed.revision, Event { thread_id: thread, sequence, time, ..event }))
        }
        // A retry is recognised before its conditions are looked at.
        Err(Error::Conflict { .. }) => {
            let view = context.latest(call).await?;
            Err(membership::refusal(&view, &thread, caller)?)
        }
        Err(error) => Err(error),
    }
}
