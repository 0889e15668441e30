//! GetUser.

use flotilla_kit::{Call, Context, Error};
use flotilla_proto::users::v1::{GetUserRequest, User};

use crate::{index::USERS, refusals, row, rules};

pub(crate) async fn get(context: &Context, call: &Call, request: GetUserRequest) -> Result<(u64, User), Error> {
    let id = request.id;
    rules::id("id", &id)?;
    let view = context.read(call).await?;
    match view.get(USERS, id.as_bytes())? {
        Some(found) => Ok((view.revision(), row::decode(&id, &found)?)),
        None => Err(refusals::not_found(&id)),
    }
}
