//! Who comes and goes.

use flotilla_proto::threads::v1::{
    AddMemberRequest, GetThreadRequest, ListMembersRequest, Member, RemoveMemberRequest, event::Kind,
};
use tonic::Status;

use crate::server::{Server, all, by, refusal, unique};

pub(crate) async fn add(server: &Server, by_user: &str, thread: &str, user: &str) -> Result<Member, Status> {
    let request = AddMemberRequest { thread_id: thread.into(), user_id: user.into(), request_id: unique() };
    Ok(server.threads().add_member(by(by_user, request)).await?.into_inner())
}

pub(crate) async fn try_remove(server: &Server, by_user: &str, thread: &str, user: &str) -> Result<(), Status> {
    let request = RemoveMemberRequest { thread_id: thread.into(), user_id: user.into(), request_id: unique() };
    server.threads().remove_member(by(by_user, request)).await.map(|_| ())
}

pub(crate) async fn remove(server: &Server, by_user: &str, thread: &str, user: &str) {
    try_remove(server, by_user, thread, user).await.expect("removed");
}

async fn members(server: &Server, user: &str, thread: &str) -> Vec<Member> {
    let request = ListMembersRequest { thread_id: thread.into(), ..Default::default() };
    server.threads().list_members(by(user, request)).await.expect("members").into_inner().members
}

#[tokio::test]
async fn a_new_member_is_listed_as_answered_and_told_to_all() {
    let server = Server::start().await;
    let (ada, bob) = (server.user("Ada").await, server.user("Bob").await);
    let thread = server.thread(&ada, &[]).await.id;
    let mut stream = server.subscribe(&ada, "phone", all()).await;
    assert_eq!(stream.event().await.sequence, 1);
    let member = add(&server, &ada, &thread, &bob).await.expect("a member");
    assert_eq!((member.display_name.as_str(), member.join_sequence), ("Bob", 2));
    assert!(members(&server, &bob, &thread).await.contains(&member));
    let event = stream.event().await;
    let Some(Kind::MemberJoined(joined)) = event.kind else { panic!("{event:?}") };
    assert_eq!(joined.member, Some(member));
}

#[tokio::test]
async fn a_retried_addition_and_removal_count_once() {
    let server = Server::start().await;
    let (ada, bob) = (server.user("Ada").await, server.user("Bob").await);
    let thread = server.thread(&ada, &[]).await.id;
    let request = AddMemberRequest { thread_id: thread.clone(), user_id: bob.clone(), request_id: unique() };
    let first = server.threads().add_member(by(&ada, request.clone())).await.expect("a member").into_inner();
    let retry = server.threads().add_member(by(&ada, request)).await.expect("a member").into_inner();
    assert_eq!(first, retry);
    let request = RemoveMemberRequest { thread_id: thread.clone(), user_id: bob.clone(), request_id: unique() };
    for _ in 0..2 {
        server.threads().remove_member(by(&ada, request.clone())).await.expect("removed");
    }
    let read = server.threads().get_thread(by(&ada, GetThreadRequest { id: thread })).await.expect("a thread");
    let read = read.into_inner();
    assert_eq!((read.member_count, read.last_sequence), (1, 3));
}

#[tokio::test]
async fn wrong_members_are_refused_by_reason() {
    let server = Server::start().await;
    let (ada, bob, eve) = (server.user("Ada").await, server.user("Bob").await, server.user("Eve").await);
    let thread = server.thread(&ada, &[&bob]).await.id;
    assert_eq!(refusal(add(&server, &ada, &thread, &bob).await), "MEMBER_EXISTS");
    assert_eq!(refusal(add(&server, &ada, &thread, &unique()).await), "USER_NOT_FOUND");
    assert_eq!(refusal(add(&server, &ada, &thread, "bob").await), "INVALID_FIELD");
    assert_eq!(refusal(add(&server, &eve, &thread, &eve).await), "NOT_MEMBER");
    assert_eq!(refusal(add(&server, &ada, &unique(), &eve).await), "THREAD_NOT_FOUND");
    assert_eq!(refusal(try_remove(&server, &ada, &thread, &eve).await), "MEMBER_NOT_FOUND");
    assert_eq!(refusal(try_remove(&server, &eve, &thread, &bob).await), "NOT_MEMBER");
}

#[tokio::test]
async fn many_are_added_at_once() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let thread = server.thread(&ada, &[]).await.id;
    let users = futures::future::join_all((0..40).map(|number| {
        let server = &server;
        async move { server.user(&format!("U{number}")).await }
    }));
    let users = users.await;
    let added = futures::future::join_all(users.iter().map(|user| add(&server, &ada, &thread, user))).await;
    assert!(added.iter().all(Result::is_ok), "{added:?}");
    assert_eq!(members(&server, &ada, &thread).await.len(), 41);
    let read = server.threads().get_thread(by(&ada, GetThreadRequest { id: thread })).await.expect("a thread");
    assert_eq!(read.into_inner().member_count, 41);
}

/// Ten thousand members are made with the fifty transactions that a patient
/// person would need, so this takes some seconds.
#[tokio::test]
async fn the_10_001st_member_is_refused() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let thread = server.thread(&ada, &[]).await.id;
    let users = futures::future::join_all((0..10_000).map(|_| server.user("U"))).await;
    let mut refusals = Vec::new();
    for chunk in users.chunks(100) {
        let added = futures::future::join_all(chunk.iter().map(|user| add(&server, &ada, &thread, user))).await;
        refusals.extend(added.into_iter().filter_map(Result::err));
    }
    assert_eq!(refusals.iter().map(crate::server::reason).collect::<Vec<_>>(), ["LIMIT_EXCEEDED"]);
    let read = server.threads().get_thread(by(&ada, GetThreadRequest { id: thread })).await.expect("a thread");
    assert_eq!(read.into_inner().member_count, 10_000);
}
