//! WatchUsers: the changed rows of the users' table, as events.

use flotilla_kit::{
    Call, Context, Error, Row,
    watch::{self, Happened, Item, RowEvent},
};
use flotilla_proto::users::v1::{
    User, UserEvent, WatchUsersRequest, WatchUsersResponse, user_event::Kind, watch_users_response as response,
};
use futures::stream::BoxStream;
use tonic::Status;

use crate::{index::USERS, row};

pub(crate) async fn watch(
    context: &Context,
    call: &Call,
    request: WatchUsersRequest,
) -> Result<BoxStream<'static, Result<WatchUsersResponse, Status>>, Error> {
    watch::watch(context.clone(), call, request.cursor, event, message).await
}

fn event(changed: &RowEvent<'_>) -> Result<Option<UserEvent>, Error> {
    if changed.table() != USERS {
        return Ok(None);
    }
    let id = std::str::from_utf8(changed.key()).map_err(Error::internal)?;
    let user = |row: &Row| row::decode(id, row);
    let (kind, user, previous): (Kind, User, Option<User>) = match changed.happened() {
        Some(Happened::Created(after)) => (Kind::Created, user(after)?, None),
        Some(Happened::Updated(before, after)) => (Kind::Updated, user(after)?, Some(user(before)?)),
        Some(Happened::Deleted(before)) => (Kind::Deleted, user(before)?, None),
        None => return Ok(None),
    };
    Ok(Some(UserEvent {
        kind: kind.into(),
        user: Some(user),
        previous,
        cursor: Some(changed.cursor()),
        time: Some(changed.time()),
        request_id: changed.request_id().to_owned(),
    }))
}

fn message(item: Item<UserEvent>) -> WatchUsersResponse {
    let item = match item {
        Item::Event(event) => response::Item::Event(event),
        Item::Heartbeat(heartbeat) => response::Item::Heartbeat(heartbeat),
        Item::Reset(reset) => response::Item::Reset(reset),
    };
    WatchUsersResponse { item: Some(item) }
}
