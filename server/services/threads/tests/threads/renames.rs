//! Threads hear of renamed and deleted users, each time once.

use std::time::Duration;

use flotilla_proto::{
    threads::v1::{Event, GetThreadRequest, ListEventsRequest, ListMembersRequest, ListThreadsRequest, event::Kind},
    users::v1::{DeleteUserRequest, UpdateUserRequest, User},
};
use tokio::time::Instant;

use crate::server::{Server, all, by, unique};

async fn rename(server: &Server, user: &str, name: &str) {
    let user = User { id: user.into(), display_name: name.into(), ..User::default() };
    let request = UpdateUserRequest { user: Some(user), update_mask: None, request_id: unique() };
    server.users().update_user(request).await.expect("renamed");
}

async fn changes(server: &Server, user: &str, thread: &str) -> Vec<Event> {
    let request = ListEventsRequest { thread_id: thread.into(), ..Default::default() };
    let events = server.threads().list_events(by(user, request)).await.expect("events").into_inner().events;
    events.into_iter().filter(|event| matches!(event.kind, Some(Kind::MemberChanged(_)))).collect()
}

async fn name_in(server: &Server, reader: &str, thread: &str, user: &str) -> Option<String> {
    let request = ListMembersRequest { thread_id: thread.into(), ..Default::default() };
    let members = server.threads().list_members(by(reader, request)).await.expect("members").into_inner().members;
    members.into_iter().find(|member| member.user_id == user).map(|member| member.display_name)
}

/// Polls until something is so.
async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so().await {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_renamed_user_is_told_once_to_each_of_their_threads() {
    let server = Server::start().await;
    let (ada, bob) = (server.user("Ada").await, server.user("Bob").await);
    let threads = [server.thread(&ada, &[&bob]).await.id, server.thread(&ada, &[&bob]).await.id];
    let stranger = server.thread(&ada, &[]).await.id;
    let mut stream = server.subscribe(&ada, "phone", all()).await;
    rename(&server, &bob, "Robert").await;
    let mut told = Vec::new();
    while told.len() < 2 {
        let event = stream.event().await;
        if let Some(Kind::MemberChanged(changed)) = event.kind {
            let member = changed.member.expect("the member");
            assert_eq!((member.display_name.as_str(), changed.deleted), ("Robert", false));
            assert_eq!((member.user_id.as_str(), member.join_sequence), (bob.as_str(), 2));
            told.push(event.thread_id);
        }
    }
    told.sort();
    assert_eq!(told, threads);
    assert_eq!(name_in(&server, &ada, &threads[0], &bob).await.as_deref(), Some("Robert"));
    assert!(changes(&server, &ada, &stranger).await.is_empty());
}

#[tokio::test]
async fn a_change_of_something_else_than_the_name_is_no_event() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let thread = server.thread(&ada, &[]).await.id;
    let user = User { id: ada.clone(), last_name: "Lovelace".into(), ..User::default() };
    let request = UpdateUserRequest { user: Some(user), update_mask: None, request_id: unique() };
    server.users().update_user(request).await.expect("changed");
    rename(&server, &ada, "Augusta").await;
    until("the rename", async || !changes(&server, &ada, &thread).await.is_empty()).await;
    assert_eq!(changes(&server, &ada, &thread).await.len(), 1);
}

#[tokio::test]
async fn a_deleted_user_is_told_and_leaves() {
    let server = Server::start().await;
    let (ada, bob) = (server.user("Ada").await, server.user("Bob").await);
    let thread = server.thread(&ada, &[&bob]).await.id;
    let request = DeleteUserRequest { id: bob.clone(), request_id: unique(), ..Default::default() };
    server.users().delete_user(request).await.expect("deleted");
    let mut stream = server.subscribe(&ada, "phone", all()).await;
    assert_eq!(stream.sequences(2).await, [1, 2]);
    let Some(Kind::MemberChanged(changed)) = stream.event().await.kind else { panic!("expected the deletion") };
    assert!(changed.deleted);
    let Some(Kind::MemberLeft(left)) = stream.event().await.kind else { panic!("expected the leaving") };
    assert_eq!(left.user_id, bob);
    let read = server.threads().get_thread(by(&ada, GetThreadRequest { id: thread })).await.expect("a thread");
    assert_eq!(read.into_inner().member_count, 1);
    let list = server.threads().list_threads(by(&bob, ListThreadsRequest::default())).await.expect("a list");
    assert!(list.into_inner().threads.is_empty());
}

#[tokio::test]
async fn who_is_added_while_being_renamed_has_the_new_name_in_the_end() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    for round in 0..20 {
        let bob = server.user("Bob").await;
        let name = format!("Robert {round}");
        let members = [bob.as_str()];
        let (thread, ()) = tokio::join!(server.thread(&ada, &members), rename(&server, &bob, &name));
        until("the new name", async || name_in(&server, &ada, &thread.id, &bob).await.as_ref() == Some(&name)).await;
        assert!(changes(&server, &ada, &thread.id).await.len() <= 1);
    }
}

#[tokio::test]
async fn what_happened_while_the_server_was_down_is_told_once() {
    let server = Server::start().await;
    let (ada, bob) = (server.user("Ada").await, server.user("Bob").await);
    let mut threads = Vec::new();
    for _ in 0..300 {
        threads.push(server.thread(&ada, &[&bob]).await.id);
    }
    let mut server = server;
    for round in 0..4 {
        // The task is somewhere in the middle, or hasn't begun.
        rename(&server, &bob, &format!("Bob {round}")).await;
        server = server.restart().await;
    }
    for thread in &threads {
        until("every rename", async || changes(&server, &ada, thread).await.len() >= 4).await;
        let names = changes(&server, &ada, thread).await.into_iter().map(|event| match event.kind {
            Some(Kind::MemberChanged(changed)) => changed.member.expect("the member").display_name,
            other => panic!("{other:?}"),
        });
        assert_eq!(names.collect::<Vec<_>>(), ["Bob 0", "Bob 1", "Bob 2", "Bob 3"]);
    }
}
