//! Posting, and the history of a thread.

use flotilla_proto::threads::v1::{ListEventsRequest, ListEventsResponse, Message, PostMessageRequest};
use prost_types::{ListValue, Struct, Value, value::Kind};

use crate::server::{Server, by, refusal, text, unique};

async fn list(server: &Server, user: &str, request: ListEventsRequest) -> ListEventsResponse {
    server.threads().list_events(by(user, request)).await.expect("a page").into_inner()
}

fn post(thread: &str, text: &str) -> PostMessageRequest {
    let message = Some(Message { text: text.into(), data: None });
    PostMessageRequest { thread_id: thread.into(), message, request_id: unique() }
}

#[tokio::test]
async fn a_post_is_answered_with_its_event_and_a_retry_counts_once() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let thread = server.thread(&ada, &[]).await.id;
    let request = post(&thread, "hello");
    let first = server.threads().post_message(by(&ada, request.clone())).await.expect("an event").into_inner();
    let retry = server.threads().post_message(by(&ada, request.clone())).await.expect("an event").into_inner();
    assert_eq!(first, retry);
    assert_eq!((first.sequence, text(&first), &first.request_id), (2, "hello", &request.request_id));
    let page = list(&server, &ada, ListEventsRequest { thread_id: thread, ..Default::default() }).await;
    assert_eq!(page.events[1], first);
    assert_eq!((page.events.len(), page.first_sequence, page.end.map(|end| end.sequence)), (2, 1, Some(2)));
}

#[tokio::test]
async fn a_retry_after_the_removal_still_gets_the_first_answer() {
    let server = Server::start().await;
    let (ada, bob) = (server.user("Ada").await, server.user("Bob").await);
    let thread = server.thread(&ada, &[&bob]).await.id;
    let request = post(&thread, "bye");
    let first = server.threads().post_message(by(&bob, request.clone())).await.expect("an event").into_inner();
    crate::members::remove(&server, &ada, &thread, &bob).await;
    let retry = server.threads().post_message(by(&bob, request)).await.expect("the first answer").into_inner();
    assert_eq!(retry, first);
    assert_eq!(refusal(server.post(&bob, &thread, "again").await), "NOT_MEMBER");
}

#[tokio::test]
async fn an_empty_and_a_too_large_message_are_refused_and_change_nothing() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let thread = server.thread(&ada, &[]).await.id;
    assert_eq!(refusal(server.post(&ada, &thread, "").await), "INVALID_FIELD");
    assert_eq!(refusal(server.post(&ada, &thread, &"x".repeat((1 << 20) + 1)).await), "LIMIT_EXCEEDED");
    assert_eq!(refusal(server.post(&ada, &unique(), "x").await), "THREAD_NOT_FOUND");
    let mut deep = Value { kind: Some(Kind::NullValue(0)) };
    for _ in 0..33 {
        deep = Value { kind: Some(Kind::ListValue(ListValue { values: vec![deep] })) };
    }
    let data = Some(Struct { fields: [("x".to_owned(), deep)].into() });
    let request = PostMessageRequest { message: Some(Message { text: String::new(), data }), ..post(&thread, "") };
    assert_eq!(refusal(server.threads().post_message(by(&ada, request)).await), "INVALID_FIELD");
    let page = list(&server, &ada, ListEventsRequest { thread_id: thread, ..Default::default() }).await;
    assert_eq!(page.events.len(), 1);
}

#[tokio::test]
async fn the_largest_message_is_posted_listed_and_pushed() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let thread = server.thread(&ada, &[]).await.id;
    let mut stream = server.subscribe(&ada, "phone", crate::server::all()).await;
    let large = "x".repeat((1 << 20) - 200);
    let posted = server.post(&ada, &thread, &large).await.expect("an event");
    assert_eq!(stream.event().await.sequence, 1);
    assert_eq!(stream.event().await, posted);
    let page = list(&server, &ada, ListEventsRequest { thread_id: thread, newest_first: true, ..Default::default() });
    assert_eq!(page.await.events[0], posted);
}

#[tokio::test]
async fn a_history_is_paged_from_either_end_without_gaps() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let thread = server.thread(&ada, &[]).await.id;
    for number in 0..25 {
        server.post(&ada, &thread, &number.to_string()).await.expect("an event");
    }
    let history = server.replica.history().to_string();
    for (newest_first, after) in [(false, 0), (true, 0), (false, 7), (true, 7)] {
        let (mut found, mut token) = (Vec::new(), String::new());
        loop {
            let page = list(
                &server,
                &ada,
                ListEventsRequest {
                    thread_id: thread.clone(),
                    page_size: 4,
                    page_token: token,
                    newest_first,
                    after_sequence: after,
                    history: history.clone(),
                },
            );
            let page = page.await;
            found.extend(page.events.iter().map(|event| event.sequence));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        let mut wanted: Vec<u64> = (after + 1..=26).collect();
        if newest_first {
            wanted.reverse();
        }
        assert_eq!(found, wanted, "newest first: {newest_first}, after {after}");
    }
}

#[tokio::test]
async fn a_place_of_the_future_or_of_another_history_is_refused() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let thread = server.thread(&ada, &[]).await.id;
    let history = server.replica.history().to_string();
    for (after_sequence, history, wanted) in [
        (9, history.clone(), "SEQUENCE_IN_FUTURE"),
        (1, "other".into(), "HISTORY_CHANGED"),
        (1, "".into(), "INVALID_FIELD"),
    ] {
        let request = ListEventsRequest { thread_id: thread.clone(), after_sequence, history, ..Default::default() };
        assert_eq!(refusal(server.threads().list_events(by(&ada, request)).await), wanted);
    }
    let request = ListEventsRequest { thread_id: thread, after_sequence: 1, history, ..Default::default() };
    assert!(list(&server, &ada, request).await.events.is_empty(), "nothing is after the newest");
}

#[tokio::test]
async fn posts_at_once_get_dense_sequences() {
    let server = Server::start().await;
    let (ada, bob) = (server.user("Ada").await, server.user("Bob").await);
    let thread = server.thread(&ada, &[&bob]).await.id;
    let posts = (0..200).map(|number| {
        let (server, thread) = (&server, &thread);
        let user = if number % 2 == 0 { &ada } else { &bob };
        async move { server.post(user, thread, "x").await.expect("an event").sequence }
    });
    let mut sequences = futures::future::join_all(posts).await;
    sequences.sort_unstable();
    assert_eq!(sequences, (3..=202).collect::<Vec<u64>>());
}
