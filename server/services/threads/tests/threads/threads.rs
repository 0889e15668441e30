//! Threads as resources.

use flotilla_proto::threads::v1::{
    CreateThreadRequest, GetThreadRequest, ListThreadsRequest, Thread, UpdateThreadRequest, event::Kind,
};

use crate::server::{Server, all, by, refusal, unique};

fn create(name: &str, members: &[&str]) -> CreateThreadRequest {
    CreateThreadRequest {
        thread: Some(Thread { display_name: name.into(), ..Thread::default() }),
        member_user_ids: members.iter().map(|&user| user.to_owned()).collect(),
        request_id: unique(),
    }
}

fn rename(id: &str, name: &str, etag: &str) -> UpdateThreadRequest {
    let thread = Thread { id: id.into(), display_name: name.into(), etag: etag.into(), ..Thread::default() };
    UpdateThreadRequest { thread: Some(thread), update_mask: None, request_id: unique() }
}

#[tokio::test]
async fn a_new_thread_has_the_caller_and_the_named_as_members_each_once() {
    let server = Server::start().await;
    let (ada, bob) = (server.user("Ada").await, server.user("Bob").await);
    let thread = server.thread(&ada, &[&bob, &ada, &bob]).await;
    assert_eq!((thread.display_name.as_str(), thread.member_count, thread.last_sequence), ("harbour", 2, 2));
    for user in [&ada, &bob] {
        let request = GetThreadRequest { id: thread.id.clone() };
        let read = server.threads().get_thread(by(user, request)).await.expect("the thread").into_inner();
        assert_eq!(read, thread);
    }
}

#[tokio::test]
async fn a_retried_creation_makes_one_thread_and_gets_the_first_answer() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let request = create("harbour", &[]);
    let first = server.threads().create_thread(by(&ada, request.clone())).await.expect("a thread").into_inner();
    let second = server.threads().create_thread(by(&ada, request)).await.expect("the thread").into_inner();
    assert_eq!(first, second);
    let list = server.threads().list_threads(by(&ada, ListThreadsRequest::default())).await.expect("a list");
    assert_eq!(list.into_inner().threads, [first]);
}

#[tokio::test]
async fn a_thread_of_users_who_are_not_there_is_not_created() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let nobody = unique();
    assert_eq!(refusal(server.threads().create_thread(by(&ada, create("x", &[&nobody]))).await), "USER_NOT_FOUND");
    assert_eq!(refusal(server.threads().create_thread(by(&nobody, create("x", &[]))).await), "USER_NOT_FOUND");
    let list = server.threads().list_threads(by(&ada, ListThreadsRequest::default())).await.expect("a list");
    assert!(list.into_inner().threads.is_empty());
}

#[tokio::test]
async fn who_calls_must_be_said_and_be_an_id() {
    let server = Server::start().await;
    let list = ListThreadsRequest::default;
    assert_eq!(refusal(server.threads().list_threads(list()).await), "CALLER_MISSING");
    assert_eq!(refusal(server.threads().list_threads(by("0", list())).await), "INVALID_FIELD");
    let ada = server.user("Ada").await;
    assert_eq!(refusal(server.try_subscribe(&ada, "", all()).await.map(|_| ())), "CALLER_MISSING");
}

#[tokio::test]
async fn bad_names_and_too_many_members_are_refused() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    for name in ["", "a\nb", &"x".repeat(257)] {
        let answer = server.threads().create_thread(by(&ada, create(name, &[]))).await;
        assert_eq!(refusal(answer), "INVALID_FIELD", "{name:?}");
    }
    let many: Vec<String> = (0..201).map(|_| unique()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(refusal(server.threads().create_thread(by(&ada, create("x", &many))).await), "LIMIT_EXCEEDED");
}

#[tokio::test]
async fn only_members_see_a_thread_and_strangers_are_told_why() {
    let server = Server::start().await;
    let (ada, eve) = (server.user("Ada").await, server.user("Eve").await);
    let thread = server.thread(&ada, &[]).await;
    let get = |id: &str| GetThreadRequest { id: id.into() };
    assert_eq!(refusal(server.threads().get_thread(by(&eve, get(&thread.id))).await), "NOT_MEMBER");
    assert_eq!(refusal(server.threads().get_thread(by(&eve, get(&unique()))).await), "THREAD_NOT_FOUND");
    let list = server.threads().list_threads(by(&eve, ListThreadsRequest::default())).await.expect("a list");
    assert!(list.into_inner().threads.is_empty());
}

#[tokio::test]
async fn a_thread_is_renamed_once_and_its_members_are_told() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let thread = server.thread(&ada, &[]).await;
    let mut stream = server.subscribe(&ada, "phone", all()).await;
    let request = rename(&thread.id, "quay", &thread.etag);
    let renamed = server.threads().update_thread(by(&ada, request.clone())).await.expect("renamed").into_inner();
    assert_eq!((renamed.display_name.as_str(), renamed.last_sequence), ("quay", 2));
    let retried = server.threads().update_thread(by(&ada, request.clone())).await.expect("a retry").into_inner();
    assert_eq!(retried, renamed);
    assert_eq!(stream.event().await.sequence, 1);
    let event = stream.event().await;
    let Some(Kind::ThreadRenamed(told)) = &event.kind else { panic!("{event:?}") };
    assert_eq!((told.display_name.as_str(), told.previous_display_name.as_str()), ("quay", "harbour"));
    assert_eq!((event.user_id, event.request_id), (ada.clone(), request.request_id));

    let stale = server.threads().update_thread(by(&ada, rename(&thread.id, "dock", &thread.etag))).await;
    assert_eq!(refusal(stale), "ETAG_STALE");
    let same = server.threads().update_thread(by(&ada, rename(&thread.id, "quay", ""))).await.expect("no change");
    assert_eq!(same.into_inner(), renamed, "a name that is the same is no event");
}

#[tokio::test]
async fn a_users_threads_are_listed_by_pages() {
    let server = Server::start().await;
    let (ada, bob) = (server.user("Ada").await, server.user("Bob").await);
    let mut wanted = Vec::new();
    for round in 0..5 {
        wanted.push(server.thread(&ada, &[]).await.id);
        if round % 2 == 0 {
            server.thread(&bob, &[]).await;
        }
    }
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let request = ListThreadsRequest { page_size: 2, page_token: token };
        let page = server.threads().list_threads(by(&ada, request)).await.expect("a page").into_inner();
        found.extend(page.threads.into_iter().map(|thread| thread.id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    wanted.sort();
    assert_eq!(found, wanted);
}
