//! CreateUser.

use flotilla_kit::{Call, Context, Error, Intent, Violations};
use flotilla_proto::users::v1::{CreateUserRequest, User};
use ulid::Ulid;

use crate::{
    index::{USERS, reindex},
    refusals, row, rules,
};

pub(crate) async fn create(
    context: &Context,
    call: &Call,
    mut request: CreateUserRequest,
) -> Result<(u64, User), Error> {
    let request_id = std::mem::take(&mut request.request_id);
    let intent = Intent::of(call, request_id, &request)?;
    let mut user = request.user.unwrap_or_default();
    if user.display_name.is_empty() {
        user.display_name = joined(&user.first_name, &user.last_name);
    }
    let mut violations = Violations::default();
    rules::check_user(&mut violations, &user, rules::SETTABLE);
    violations.finish()?;
    user.id = Ulid::new().to_string();

    let transaction = context.transaction().put(USERS, user.id.clone(), row::encode(&user));
    let transaction = reindex(transaction, &user.id, None, Some(&user));
    match context.commit(call, &intent, transaction, user.id.as_bytes()).await {
        Ok(committed) => {
            // A retry gets the id that the first time gave out; everything
            // else of its answer is in the request, or known of the transaction.
            if committed.replayed {
                user.id = String::from_utf8(committed.answer.to_vec()).map_err(Error::internal)?;
            }
            Ok((committed.revision, row::written(user, &committed)))
        }
        // The only condition is that the address is free.
        Err(Error::Conflict { .. }) => Err(refusals::email_taken()),
        Err(error) => Err(error),
    }
}

fn joined(first: &str, last: &str) -> String {
    format!("{first} {last}").trim().to_owned()
}
