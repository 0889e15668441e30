//! Acknowledgements: collected, paced, tried again, and sent before the end.

use std::time::Duration;

use flotilla_client::{
    Client, Delivery, MAX_ACKS, News, Subscription,
    proto::{
        errors::v1::Reason,
        threads::v1::{ThreadReset, subscribe_response::Item},
    },
};
use tokio::time::Instant;
use tonic::Code;

use crate::double::{Double, cursor, event, refusal};

const BOUND: Duration = Duration::from_secs(5);

async fn next_event(subscription: &mut Subscription) -> Box<Delivery> {
    loop {
        if let News::Event(event) = subscription.next().await.unwrap() {
            return event;
        }
    }
}

/// Acknowledges the first event of each of so many threads.
async fn acknowledge_many(server: &Double, client: &Client, threads: usize) -> Subscription {
    (0..threads).for_each(|n| server.post(&format!("{n:03}")));
    let mut subscription = Subscription::all(client);
    for _ in 0..threads {
        let event = next_event(&mut subscription).await;
        subscription.ack(&event);
    }
    subscription
}

#[tokio::test(start_paused = true)]
async fn acknowledgements_are_collected_to_one_a_second() {
    let (server, client) = Double::start();
    let mut subscription = Subscription::all(&client);
    for _ in 0..100 {
        server.post("t");
        let event = next_event(&mut subscription).await;
        subscription.ack(&event);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.until("the last is stored", |state| state.stored.get("t") == Some(&100)).await;
    let state = server.state();
    assert!(state.acks.len() <= 7, "{} acks in 5 seconds", state.acks.len());
    for pair in state.acks.windows(2) {
        assert!(pair[1].0 - pair[0].0 >= Duration::from_secs(1));
        assert!(pair[1].1.cursors[0].sequence > pair[0].1.cursors[0].sequence);
        assert_ne!(pair[1].1.request_id, pair[0].1.request_id);
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_highest_of_a_thread_is_sent() {
    let (server, client) = Double::start();
    (0..3).for_each(|_| server.post("t"));
    let mut subscription = Subscription::all(&client);
    let mut events = Vec::new();
    for _ in 0..3 {
        events.push(next_event(&mut subscription).await);
    }
    let acknowledger = subscription.acknowledger();
    [1, 2, 0].into_iter().for_each(|n: usize| acknowledger.ack(&events[n]));
    subscription.close(BOUND).await.unwrap();
    assert_eq!(server.state().acks.len(), 1);
    assert_eq!(server.state().acks[0].1.cursors, [cursor("t", "H", 3)]);
}

#[tokio::test(start_paused = true)]
async fn closing_sends_everything_in_acks_of_bounded_size() {
    let (server, client) = Double::start();
    let subscription = acknowledge_many(&server, &client, 450).await;
    let begun = Instant::now();
    subscription.close(BOUND).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
    let state = server.state();
    assert_eq!(state.stored.len(), 450);
    assert!(state.acks.iter().all(|(_, ack)| ack.cursors.len() <= MAX_ACKS));
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_dropped_still_tells_what_was_acknowledged() {
    let (server, client) = Double::start();
    drop(acknowledge_many(&server, &client, 3).await);
    server.until("all are stored", |state| state.stored.len() == 3).await;
}

#[tokio::test(start_paused = true)]
async fn an_ack_that_did_not_arrive_is_told_once_and_sent_again() {
    let (server, client) = Double::start();
    let away = || refusal(Code::Unavailable, Reason::NoLeader, &[], None);
    server.state().ack_failures.extend([away(), away(), away()]);
    let mut subscription = acknowledge_many(&server, &client, 1).await;
    let failure = loop {
        if let News::AckFailed(failure) = subscription.next().await.unwrap() {
            break failure;
        }
    };
    assert!(failure.will_retry);
    assert_eq!(failure.cursors, [cursor("000", "H", 1)]);
    server.until("it is stored", |state| state.stored.contains_key("000")).await;
    assert!(matches!(subscription.next().await.unwrap(), News::Quiet), "told once");
}

#[tokio::test(start_paused = true)]
async fn a_thread_that_refuses_an_ack_does_not_keep_others_from_theirs() {
    let (server, client) = Double::start();
    let stranger = refusal(Code::PermissionDenied, Reason::NotMember, &[("thread_id", "001")], None);
    // The first Ack may hold the first thread alone.
    let mut subscription = acknowledge_many(&server, &client, 1).await;
    server.until("the first is stored", |state| state.stored.len() == 1).await;
    server.state().ack_failures.push_back(stranger);
    (1..4).for_each(|n| server.post(&format!("{n:03}")));
    let mut events = Vec::new();
    for _ in 1..4 {
        events.push(next_event(&mut subscription).await);
    }
    events.iter().for_each(|event| subscription.ack(event));
    let failure = loop {
        if let News::AckFailed(failure) = subscription.next().await.unwrap() {
            break failure;
        }
    };
    assert!(!failure.will_retry);
    assert_eq!(failure.cursors, [cursor("001", "H", 1)]);
    server.until("the others are stored", |state| state.stored.len() == 3).await;
    assert!(!server.state().stored.contains_key("001"));
}

#[tokio::test(start_paused = true)]
async fn an_event_of_another_history_is_not_acknowledged_in_this_one() {
    let (server, client) = Double::start();
    let reset = ThreadReset { cursor: Some(cursor("t", "new", 7)), ..ThreadReset::default() };
    let script = [Item::Started(cursor("t", "old", 4)), Item::Event(event("t", 5)), Item::Reset(reset)];
    server.state().scripts.push_back(script.into_iter().map(Ok).collect());
    let mut subscription = Subscription::all(&client);
    let late = next_event(&mut subscription).await;
    assert!(matches!(subscription.next().await.unwrap(), News::Reset(_)));
    subscription.ack(&late);
    let acknowledger = subscription.acknowledger();
    acknowledger.ack_to(&cursor("t", "new", 7));
    subscription.close(BOUND).await.unwrap();
    assert_eq!(server.state().acks.len(), 1);
    assert_eq!(server.state().acks[0].1.cursors, [cursor("t", "new", 7)]);
}

#[tokio::test(start_paused = true)]
async fn closing_without_a_server_ends_and_says_so() {
    let (server, client) = Double::start();
    let away = || refusal(Code::Unavailable, Reason::ShuttingDown, &[], None);
    server.state().ack_failures.extend((0..100).map(|_| away()));
    let subscription = acknowledge_many(&server, &client, 2).await;
    let begun = Instant::now();
    let error = subscription.close(BOUND).await.unwrap_err();
    assert!(begun.elapsed() <= BOUND + Duration::from_secs(1));
    assert_eq!(error.threads, 2);
    assert!(error.to_string().contains("SHUTTING_DOWN"), "{error}");
}
