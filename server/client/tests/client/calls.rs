//! Calls: what is tried again, how often, and how long.

use std::time::Duration;

use flotilla_client::{
    CallError, Pages, RetryBudget, Target,
    proto::{
        errors::v1::Reason,
        threads::v1::{GetThreadRequest, ListThreadsRequest, PostMessageRequest},
    },
};
use tokio::time::Instant;
use tonic::Code;

use crate::double::{Double, Failure, refusal};

fn thread() -> GetThreadRequest {
    GetThreadRequest { id: "t".to_owned() }
}

fn starting() -> Failure {
    Failure::Status(refusal(Code::Unavailable, Reason::Starting, &[], None))
}

#[tokio::test(start_paused = true)]
async fn a_call_is_tried_again_until_the_server_is_there() {
    let (server, client) = Double::start();
    server.state().failures.extend([starting(), starting(), starting()]);
    assert_eq!(client.call(thread()).await.unwrap().id, "t");
    assert_eq!(server.state().calls.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn the_pause_that_the_server_asks_for_is_kept() {
    let (server, client) = Double::start();
    let pause = Duration::from_secs(7);
    server.state().failures.push_back(Failure::Status(refusal(
        Code::ResourceExhausted,
        Reason::Overloaded,
        &[],
        Some(pause),
    )));
    client.call(thread()).await.unwrap();
    let calls = &server.state().calls;
    assert!(calls[1].0 - calls[0].0 >= pause);
}

#[tokio::test(start_paused = true)]
async fn a_pause_past_the_deadline_is_not_begun() {
    let target = Target::new("http://double").timeout(Duration::from_secs(5));
    let (server, client) = Double::start_for(target);
    let late = refusal(Code::Unavailable, Reason::NoLeader, &[], Some(Duration::from_secs(6)));
    server.state().failures.push_back(Failure::Status(late));
    let begun = Instant::now();
    let error = client.call(thread()).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(error.refusal().unwrap().known_reason(), Some(Reason::NoLeader));
}

#[tokio::test(start_paused = true)]
async fn what_trying_again_cannot_help_is_told_at_once() {
    let (server, client) = Double::start();
    let full = refusal(Code::ResourceExhausted, Reason::DiskFull, &[], None);
    server.state().failures.push_back(Failure::Status(full));
    assert!(client.call(thread()).await.is_err());
    assert_eq!(server.state().calls.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_connection_broke_is_repeated_with_its_request_id() {
    let (server, client) = Double::start();
    server.state().failures.extend([Failure::Connection, Failure::Connection]);
    client.call(PostMessageRequest::default()).await.unwrap();
    let calls = &server.state().calls;
    assert_eq!(calls.len(), 3);
    assert!(!calls[0].1.is_empty() && calls.iter().all(|call| call.1 == calls[0].1));
}

#[tokio::test(start_paused = true)]
async fn an_empty_budget_tells_failures_at_once_until_answers_fill_it() {
    let retries = RetryBudget { max_tokens: 4, token_ratio: 1.0 };
    let (server, client) = Double::start_for(Target::new("http://double").retries(retries));
    server.state().failures.extend([starting(), starting()]);
    assert!(client.call(thread()).await.is_err(), "one retry leaves two of four tokens, which is half");
    assert_eq!(server.state().calls.len(), 2);
    server.state().failures.push_back(starting());
    assert!(client.call(thread()).await.is_err(), "no retry");
    for _ in 0..3 {
        client.call(thread()).await.unwrap();
    }
    server.state().failures.push_back(starting());
    client.call(thread()).await.expect("answers gave tokens back");
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_ends_at_its_deadline() {
    let (server, client) = Double::start_for(Target::new("http://double").timeout(Duration::from_secs(3)));
    // Each try loses its connection.
    server.state().failures.extend((0..100).map(|_| Failure::Connection));
    let begun = Instant::now();
    assert!(client.call(thread()).await.is_err());
    assert!(begun.elapsed() <= Duration::from_millis(3_010), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn nobody_there_is_told_with_the_systems_reason() {
    let error = flotilla_client::Client::connect(&Target::new("http://127.0.0.1:1")).await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable { .. }));
    assert_eq!(error.to_string(), "cannot reach http://127.0.0.1:1: connection refused");
}

#[tokio::test(start_paused = true)]
async fn a_list_comes_in_pages_to_its_end() {
    let (server, client) = Double::start();
    (0..7).for_each(|n| server.thread(&n.to_string()));
    let mut pages = Pages::new(&client, ListThreadsRequest::default());
    let mut sizes = Vec::new();
    while let Some(page) = pages.next(3).await.unwrap() {
        sizes.push(page.items.len());
    }
    assert_eq!(sizes, [3, 3, 1]);
}
