//! Watching users.

use flotilla_proto::{
    errors::v1::Reason,
    feed::v1::Cursor,
    users::v1::{
        DeleteUserRequest, UpdateUserRequest, UserEvent, WatchUsersRequest, WatchUsersResponse, user_event::Kind,
        watch_users_response::Item,
    },
};
use tonic::{Code, Streaming};

use crate::server::{Server, create, reason, unique, with_email};

async fn watch(server: &Server, cursor: Option<Cursor>) -> Streaming<WatchUsersResponse> {
    server.client().watch_users(WatchUsersRequest { cursor }).await.expect("a stream").into_inner()
}

async fn next(stream: &mut Streaming<WatchUsersResponse>) -> Item {
    stream.message().await.expect("a message").expect("the stream goes on").item.expect("an item")
}

async fn next_event(stream: &mut Streaming<WatchUsersResponse>) -> UserEvent {
    match next(stream).await {
        Item::Event(event) => event,
        other => panic!("expected an event, got {other:?}"),
    }
}

async fn first_heartbeat(stream: &mut Streaming<WatchUsersResponse>) -> Cursor {
    match next(stream).await {
        Item::Heartbeat(heartbeat) => heartbeat.cursor.expect("a cursor"),
        other => panic!("expected a heartbeat, got {other:?}"),
    }
}

#[tokio::test]
async fn a_watcher_sees_a_user_come_change_and_go() {
    let server = Server::start().await;
    let mut stream = watch(&server, None).await;
    let start = first_heartbeat(&mut stream).await;
    assert_eq!((start.revision, start.index), (0, 0));

    let created =
        server.client().create_user(create(&with_email("ada@x"), "my-own")).await.expect("a user").into_inner();
    let event = next_event(&mut stream).await;
    assert_eq!((event.kind(), event.user.as_ref()), (Kind::Created, Some(&created)));
    assert_eq!((event.previous, event.request_id.as_str(), event.time), (None, "my-own", created.create_time));

    let mut wanted = created.clone();
    wanted.first_name = "Ada".into();
    let request = UpdateUserRequest { user: Some(wanted), update_mask: None, request_id: unique() };
    let updated = server.client().update_user(request).await.expect("an update").into_inner();
    let event = next_event(&mut stream).await;
    assert_eq!(event.kind(), Kind::Updated);
    assert_eq!((event.user.as_ref(), event.previous), (Some(&updated), Some(created)));

    let request = DeleteUserRequest { id: updated.id.clone(), request_id: unique(), ..DeleteUserRequest::default() };
    server.client().delete_user(request).await.expect("a deletion");
    let event = next_event(&mut stream).await;
    assert_eq!((event.kind(), event.user, event.previous), (Kind::Deleted, Some(updated), None));
}

#[tokio::test]
async fn a_watcher_resumes_where_it_was_without_gap_or_duplicate() {
    let server = Server::start().await;
    let mut stream = watch(&server, None).await;
    first_heartbeat(&mut stream).await;
    for number in 0..5 {
        server.client().create_user(create(&with_email(&format!("{number}@x")), &unique())).await.expect("a user");
    }
    next_event(&mut stream).await;
    let cursor = next_event(&mut stream).await.cursor;
    drop(stream);

    let mut resumed = watch(&server, cursor.clone()).await;
    assert_eq!(Some(first_heartbeat(&mut resumed).await), cursor);
    for number in 2..5 {
        let email = next_event(&mut resumed).await.user.expect("a user").email;
        assert_eq!(email, format!("{number}@x"));
    }
}

#[tokio::test]
async fn an_update_that_changes_nothing_makes_no_event() {
    let server = Server::start().await;
    let ada = server.created("ada", "byron").await;
    let mut stream = watch(&server, None).await;
    first_heartbeat(&mut stream).await;
    let request = UpdateUserRequest { user: Some(ada), update_mask: None, request_id: unique() };
    server.client().update_user(request).await.expect("an update");
    let eve = server.created("eve", "byron").await;
    assert_eq!(next_event(&mut stream).await.user, Some(eve));
}

#[tokio::test]
async fn a_cursor_that_cannot_be_served_gets_a_reset_and_a_good_end() {
    let server = Server::start().await;
    server.created("ada", "byron").await;
    let history = server.replica.history().to_string();
    let current = Cursor { history: history.clone(), revision: 1, index: 0 };
    for (cursor, reason) in [
        (Cursor { history: "restored".into(), revision: 1, index: 0 }, Reason::HistoryChanged),
        (Cursor { history: history.clone(), revision: 7, index: 0 }, Reason::RevisionInFuture),
        (Cursor { history: history.clone(), revision: 2, index: 3 }, Reason::RevisionInFuture),
    ] {
        let mut stream = watch(&server, Some(cursor)).await;
        match next(&mut stream).await {
            Item::Reset(reset) => {
                assert_eq!((reset.reason(), reset.cursor.as_ref()), (reason, Some(&current)), "{}", reset.message);
            }
            other => panic!("expected a reset, got {other:?}"),
        }
        assert_eq!(stream.message().await.expect("a good end"), None);
    }
}

#[tokio::test]
async fn a_stopping_server_ends_its_streams_as_unavailable() {
    let server = Server::start().await;
    let mut stream = watch(&server, None).await;
    first_heartbeat(&mut stream).await;
    server.stopping.send_replace(true);
    let ended = stream.message().await.expect_err("the server is stopping");
    assert_eq!((ended.code(), reason(&ended)), (Code::Unavailable, "SHUTTING_DOWN".into()));
}
