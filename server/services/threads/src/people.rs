//! What this service asks the users service: whether a user is there, and what
//! they are called. Over that service's API, like any client.
//!
//! Names in threads are copies, kept true by `member_changed`. Between asking
//! for a name and committing it the user may be renamed, and the task may pass
//! by before there is a member to tell of. So the task writes a row of `changed`
//! for the user's bucket (or the one row that stands for everybody) before it
//! looks for the user's threads, and who adds a member commits only if these
//! rows are as they were before the name was asked for.

use std::collections::BTreeMap;

use flotilla_kit::{Call, Context, Error, Refusal, TransactionBuilder, context};
use flotilla_proto::{
    ERROR_DOMAIN,
    errors::v1::Reason,
    users::v1::{GetUserRequest, User, users_service_client::UsersServiceClient},
};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::{refusals, tables::CHANGED};

/// Users as they were at one moment.
pub(crate) struct People {
    /// In the order asked for.
    pub(crate) people: Vec<Person>,
    /// The revisions of the rows of `changed` before that; 0: none.
    changed: BTreeMap<Vec<u8>, u64>,
}

/// What a thread keeps of a user.
pub(crate) struct Person {
    pub(crate) user_id: String,
    pub(crate) display_name: String,
    /// The revision of the users service at which that was so.
    pub(crate) heard: u64,
}

impl People {
    /// Asks for users by their ids.
    ///
    /// # Errors
    /// USER_NOT_FOUND for the first who isn't there; what keeps the users
    /// service from answering.
    pub(crate) async fn ask<'a>(
        context: &Context,
        call: &Call,
        users: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<Self, Error> {
        let view = context.latest(call).await?;
        let mut changed = BTreeMap::new();
        for key in users.clone().map(bucket).chain([EVERYBODY.to_vec()]) {
            let revision = view.get(CHANGED, &key)?.map_or(0, |row| row.revision);
            changed.insert(key, revision);
        }
        let mut people = Vec::new();
        for user in users {
            let (found, heard) = get(context, user, call.deadline()).await?;
            people.push(Person { user_id: found.id, display_name: found.display_name, heard });
        }
        Ok(Self { people, changed })
    }

    /// Lets a transaction happen only if nobody has been told to have changed
    /// since.
    pub(crate) fn unchanged(&self, transaction: TransactionBuilder) -> TransactionBuilder {
        let row_at = |transaction: TransactionBuilder, (key, revision): (&Vec<u8>, &u64)| {
            transaction.row_at(CHANGED, key.clone(), *revision)
        };
        self.changed.iter().fold(transaction, row_at)
    }
}

/// The key of the row of `changed` that stands for all users.
pub(crate) const EVERYBODY: &[u8] = b"";

/// The key of the row of `changed` that stands for a user and some others.
pub(crate) fn bucket(user: &str) -> Vec<u8> {
    // The last characters of a ULID are random; each has five bits.
    vec![user.bytes().rev().take(2).fold(0, |bucket: u8, byte| bucket.wrapping_mul(37).wrapping_add(byte))]
}

/// A user, and the revision of the users service that was read at.
pub(crate) async fn get(context: &Context, user: &str, deadline: Instant) -> Result<(User, u64), Error> {
    let mut request = Request::new(GetUserRequest { id: user.to_owned() });
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    let mut users = UsersServiceClient::new(context.services());
    let answer = timeout_at(deadline, users.get_user(request)).await.map_err(|_| Error::DeadlineExpired)?;
    let answer = answer.map_err(|status| match status.code() {
        Code::NotFound => refusals::user_not_found(user),
        _ => error_of(&status),
    })?;
    let revision = answer.metadata().get(context::REVISION).and_then(|revision| revision.to_str().ok()?.parse().ok());
    let revision = revision.ok_or_else(|| Error::internal("the users service named no revision"))?;
    Ok((answer.into_inner(), revision))
}

/// What another service's failure is to our caller: the same.
pub(crate) fn error_of(status: &Status) -> Error {
    let details = status.get_error_details();
    let reason = details.error_info().filter(|info| info.domain == ERROR_DOMAIN);
    let reason = reason.and_then(|info| Reason::from_wire_name(&info.reason));
    match (reason, status.code()) {
        (Some(Reason::Internal) | None, Code::DeadlineExceeded) => Error::DeadlineExpired,
        // Nobody answers in the cell that it runs in; that passes.
        (None, Code::Unavailable) => Error::NoLeader,
        (Some(Reason::Internal) | None, code) => {
            Error::internal(format!("the users service answered {code:?}: {}", status.message()))
        }
        (Some(reason), _) => Refusal::new(reason, status.message()).into(),
    }
}
