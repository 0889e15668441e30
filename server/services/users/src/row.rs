//! A user as it is stored, and as it is answered. The row has revision and
//! times already, and its key is the id, so its value leaves them out.

use flotilla_kit::{Committed, Error, Row, etag, time};
use flotilla_proto::users::v1::User;
use prost::Message;

/// The value of a user's row.
pub(crate) fn encode(user: &User) -> Vec<u8> {
    let User { email, first_name, last_name, display_name, labels, .. } = user.clone();
    User { email, first_name, last_name, display_name, labels, ..User::default() }.encode_to_vec()
}

/// The user that a row holds.
pub(crate) fn decode(id: &str, row: &Row) -> Result<User, Error> {
    let stored = User::decode(row.value.clone()).map_err(Error::internal)?;
    Ok(User {
        id: id.to_owned(),
        etag: etag::of(row.revision),
        create_time: Some(time::timestamp(row.create_time)),
        update_time: Some(time::timestamp(row.update_time)),
        ..stored
    })
}

/// The user that a transaction has written by its first operation.
pub(crate) fn written(user: User, committed: &Committed) -> User {
    let age = committed.results.first().copied().unwrap_or(0);
    User {
        etag: etag::of(committed.revision),
        create_time: Some(time::timestamp(committed.time.saturating_sub(age))),
        update_time: Some(time::timestamp(committed.time)),
        ..user
    }
}
