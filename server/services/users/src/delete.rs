//! DeleteUser.

use flotilla_kit::{Call, Context, Error, Intent, Violations, etag};
use flotilla_proto::users::v1::DeleteUserRequest;

use crate::{
    index::{USERS, reindex},
    refusals, row, rules,
    update::ATTEMPTS,
};

pub(crate) async fn delete(context: &Context, call: &Call, mut request: DeleteUserRequest) -> Result<u64, Error> {
    let request_id = std::mem::take(&mut request.request_id);
    let intent = Intent::of(call, request_id, &request)?;
    let DeleteUserRequest { id, etag, allow_missing, .. } = request;
    let mut violations = Violations::default();
    violations.check(rules::id("id", &id));
    let etag = violations.check(etag::parse("etag", &etag));
    violations.finish()?;

    for _ in 0..ATTEMPTS {
        let view = context.latest(call).await?;
        let found = match view.get(USERS, id.as_bytes())? {
            Some(found) if etag.is_none_or(|etag| etag == found.revision) => found,
            other => {
                // A retry finds nothing, because its first time has deleted it.
                if let Some(committed) = context.first_answer(call, &intent).await? {
                    return Ok(committed.revision);
                }
                return match other {
                    Some(newer) => Err(refusals::stale(&id, newer.revision)),
                    None if allow_missing => Ok(view.revision()),
                    None => Err(refusals::not_found(&id)),
                };
            }
        };
        let user = row::decode(&id, &found)?;
        let transaction = context.transaction().row_at(USERS, id.clone(), found.revision).delete(USERS, id.clone());
        let transaction = reindex(transaction, &id, Some(&user), None);
        match context.commit(call, &intent, transaction, &[]).await {
            Ok(committed) => return Ok(committed.revision),
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::Conflict { condition: 0 })
}
