//! UpdateUser: read, change, and write if nobody else did in between.

use flotilla_kit::{Call, Committed, Context, Error, Intent, Violations, etag, mask, request::MAX_ANSWER};
use flotilla_proto::users::v1::{UpdateUserRequest, User};
use prost::Message;

use crate::{
    index::{USERS, reindex},
    refusals, row, rules,
};

/// How often a change is tried anew when others get in between.
pub(crate) const ATTEMPTS: usize = 8;

pub(crate) async fn update(
    context: &Context,
    call: &Call,
    mut request: UpdateUserRequest,
) -> Result<(u64, User), Error> {
    let request_id = std::mem::take(&mut request.request_id);
    let intent = Intent::of(call, request_id, &request)?;
    let update = Update::of(request)?;

    for _ in 0..ATTEMPTS {
        let found = context.latest(call).await?.get(USERS, update.id().as_bytes())?;
        let found = match found {
            Some(found) if update.etag.is_none_or(|etag| etag == found.revision) => found,
            other => {
                // A retry finds what its first time has left behind, and that
                // is no reason to refuse it.
                if let Some(committed) = context.first_answer(call, &intent).await? {
                    return answer(context, call, update.id(), &committed).await;
                }
                return Err(match other {
                    Some(newer) => refusals::stale(update.id(), newer.revision),
                    None => refusals::not_found(update.id()),
                });
            }
        };
        let before = row::decode(update.id(), &found)?;
        let mut after = update.applied_to(&before);
        let mut transaction = context.transaction().row_at(USERS, update.id().to_owned(), found.revision);
        if after != before {
            // Revision and times are those of the transaction, not known yet.
            (after.etag, after.create_time, after.update_time) = (String::new(), None, None);
            transaction = transaction.put(USERS, update.id().to_owned(), row::encode(&after));
            transaction = reindex(transaction, update.id(), Some(&before), Some(&after));
        }
        match context.commit(call, &intent, transaction, &kept(&after)).await {
            Ok(committed) if committed.replayed => return answer(context, call, update.id(), &committed).await,
            Ok(committed) => return Ok((committed.revision, completed(after, &committed))),
            Err(Error::Conflict { condition: 0 }) => {}
            Err(Error::Conflict { .. }) => return Err(refusals::email_taken()),
            Err(error) => return Err(error),
        }
    }
    Err(Error::Conflict { condition: 0 })
}

/// What is asked for.
struct Update {
    /// The new values; the id is the user's.
    values: User,
    fields: Vec<&'static str>,
    etag: Option<u64>,
}

impl Update {
    fn of(request: UpdateUserRequest) -> Result<Self, Error> {
        let values = request.user.unwrap_or_default();
        let populated = |field: &str| match field {
            "email" => !values.email.is_empty(),
            "first_name" => !values.first_name.is_empty(),
            "last_name" => !values.last_name.is_empty(),
            "display_name" => !values.display_name.is_empty(),
            _ => !values.labels.is_empty(),
        };
        let mut violations = Violations::default();
        violations.check(rules::id("user.id", &values.id));
        let etag = violations.check(etag::parse("user.etag", &values.etag));
        let fields = violations.check(mask::resolve(request.update_mask.as_ref(), rules::SETTABLE, populated));
        rules::check_user(&mut violations, &values, &fields);
        violations.finish()?;
        Ok(Self { values, fields, etag })
    }

    fn id(&self) -> &str {
        &self.values.id
    }

    fn applied_to(&self, user: &User) -> User {
        let (mut user, values) = (user.clone(), &self.values);
        for field in &self.fields {
            match *field {
                "email" => user.email.clone_from(&values.email),
                "first_name" => user.first_name.clone_from(&values.first_name),
                "last_name" => user.last_name.clone_from(&values.last_name),
                "display_name" => user.display_name.clone_from(&values.display_name),
                _ => user.labels.clone_from(&values.labels),
            }
        }
        user
    }
}

/// What a retry needs for its answer. A user who is too large for that (who
/// has many labels) isn't kept, and a retry reads it again.
fn kept(user: &User) -> Vec<u8> {
    match user.encoded_len() <= MAX_ANSWER {
        true => user.encode_to_vec(),
        false => Vec::new(),
    }
}

/// The answer to a retry.
async fn answer(context: &Context, call: &Call, id: &str, committed: &Committed) -> Result<(u64, User), Error> {
    if !committed.answer.is_empty() {
        let user = User::decode(committed.answer.clone()).map_err(Error::internal)?;
        return Ok((committed.revision, completed(user, committed)));
    }
    let view = context.latest(call).await?;
    match view.get(USERS, id.as_bytes())? {
        Some(found) => Ok((view.revision(), row::decode(id, &found)?)),
        None => Err(refusals::not_found(id)),
    }
}

/// A user that was left as it was has an etag already.
fn completed(user: User, committed: &Committed) -> User {
    match user.etag.is_empty() {
        true => row::written(user, committed),
        false => user,
    }
}
