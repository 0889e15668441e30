//! Subscriptions: every event once and in order, whatever breaks.

use std::collections::BTreeMap;

use flotilla_client::{
    Client, News, SubscribeError, Subscription,
    proto::{
        errors::v1::Reason,
        threads::v1::{ThreadReset, subscribe_request::Start, subscribe_response::Item},
    },
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tonic::Code;

use crate::double::{Break, Double, cursor, event, heartbeat, refusal};

/// Reads events until there are so many.
async fn read(subscription: &mut Subscription, wanted: usize) -> Vec<(String, u64)> {
    let mut events = Vec::new();
    while events.len() < wanted {
        if let News::Event(event) = subscription.next().await.unwrap() {
            events.push((event.thread_id.clone(), event.sequence));
        }
    }
    events
}

/// The first error, which must come.
async fn error(subscription: &mut Subscription) -> SubscribeError {
    loop {
        if let Err(error) = subscription.next().await {
            return error;
        }
    }
}

/// A stream that sends this and then nothing.
fn scripted(client: &Client, server: &Double, script: Vec<Item>) -> Subscription {
    server.state().scripts.push_back(script.into_iter().map(Ok).collect());
    Subscription::all(client)
}

#[tokio::test(start_paused = true)]
async fn every_event_comes_once_and_in_order_over_random_breaks() {
    for seed in 0..30 {
        let mut random = StdRng::seed_from_u64(seed);
        let (server, client) = Double::start();
        let threads: Vec<String> = (0..5).map(|n| format!("thread-{n}")).collect();
        threads.iter().for_each(|thread| server.thread(thread));
        let kinds = [Break::End, Break::Unavailable, Break::Connection, Break::Silence];
        let breaks = (0..40).map(|_| (random.random_range(0..15), kinds[random.random_range(0..4)]));
        server.state().breaks.extend(breaks);
        let writer = {
            let (server, threads) = (server.clone(), threads.clone());
            tokio::spawn(async move {
                for _ in 0..300 {
                    server.post(&threads[random.random_range(0..5)]);
                    tokio::time::sleep(std::time::Duration::from_millis(random.random_range(0..200))).await;
                }
            })
        };
        let mut subscription = Subscription::all(&client);
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        for (thread, sequence) in read(&mut subscription, 300).await {
            let before = last.insert(thread, sequence).unwrap_or_default();
            assert_eq!(sequence, before + 1, "seed {seed}");
        }
        writer.await.unwrap();
        assert!(server.state().subscribed.len() > 3, "seed {seed}: nothing broke");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_opened_again_behind_the_events_that_were_handed_out() {
    let (server, client) = Double::start();
    server.post("t");
    server.post("t");
    // The thread's start and one event.
    server.state().breaks.push_back((2, Break::End));
    let mut subscription = Subscription::all(&client);
    assert!(matches!(subscription.next().await.unwrap(), News::Started(place) if place == cursor("t", "H", 0)));
    assert!(matches!(subscription.next().await.unwrap(), News::Event(event) if event.sequence == 1));
    assert!(matches!(subscription.next().await.unwrap(), News::Lost { .. }));
    assert!(matches!(subscription.next().await.unwrap(), News::Resumed));
    assert_eq!(server.state().subscribed[1].cursors, [cursor("t", "H", 1)]);
    assert!(matches!(subscription.next().await.unwrap(), News::Started(_)));
    assert!(matches!(subscription.next().await.unwrap(), News::Event(event) if event.sequence == 2));
}

#[tokio::test(start_paused = true)]
async fn news_that_are_waited_for_in_short_turns_come_all_the_same() {
    let (server, client) = Double::start();
    server.state().breaks.extend([(1, Break::Silence), (0, Break::Connection)]);
    (0..5).for_each(|_| server.post("t"));
    let mut subscription = Subscription::all(&client);
    let mut events = Vec::new();
    while events.len() < 5 {
        let turn = std::time::Duration::from_millis(1);
        if let Ok(news) = tokio::time::timeout(turn, subscription.next()).await
            && let News::Event(event) = news.unwrap()
        {
            events.push(event.sequence);
        }
    }
    assert_eq!(events, [1, 2, 3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn silence_of_a_minute_is_a_broken_stream() {
    let (server, client) = Double::start();
    server.state().breaks.push_back((0, Break::Silence));
    server.thread("t");
    let mut subscription = Subscription::all(&client);
    let News::Lost { reason, .. } = subscription.next().await.unwrap() else { panic!("not lost") };
    assert_eq!(reason, "nothing was heard for 60s");
    assert!(matches!(subscription.next().await.unwrap(), News::Resumed));
}

#[tokio::test(start_paused = true)]
async fn a_missing_event_is_an_error_and_stays_one() {
    let (server, client) = Double::start();
    let script = vec![Item::Started(cursor("t", "H", 4)), Item::Event(event("t", 6))];
    let mut subscription = scripted(&client, &server, script);
    for _ in 0..2 {
        let error = error(&mut subscription).await;
        assert!(matches!(error, SubscribeError::NotDense { after: 4, sequence: 6, .. }), "{error}");
    }
    assert_eq!(server.state().subscribed.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_comes_twice_is_an_error() {
    let (server, client) = Double::start();
    let script = vec![Item::Started(cursor("t", "H", 0)), Item::Event(event("t", 1)), Item::Event(event("t", 1))];
    let error = error(&mut scripted(&client, &server, script)).await;
    assert!(matches!(error, SubscribeError::NotDense { after: 1, sequence: 1, .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_was_taken_over_does_not_come_back() {
    let (server, client) = Double::start();
    let taken = refusal(Code::Aborted, Reason::DeviceTakenOver, &[], None);
    server.state().scripts.push_back(vec![Ok(Item::Started(cursor("t", "H", 0))), Err(taken)]);
    let mut subscription = Subscription::all(&client);
    for _ in 0..2 {
        let error = error(&mut subscription).await;
        assert!(matches!(&error, SubscribeError::TakenOver { device } if device == "laptop"), "{error}");
    }
    assert_eq!(server.state().subscribed.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_subscription_says_why() {
    let (server, client) = Double::start();
    let stranger = refusal(Code::PermissionDenied, Reason::NotMember, &[("thread_id", "t")], None);
    server.state().scripts.push_back(vec![Err(stranger)]);
    let mut subscription = Subscription::of(&client, ["t".to_owned()]);
    let SubscribeError::Call(error) = error(&mut subscription).await else { panic!("another error") };
    assert_eq!(error.refusal().unwrap().known_reason(), Some(Reason::NotMember));
    assert_eq!(server.state().subscribed[0].thread_ids, ["t"]);
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_told_and_the_thread_goes_on_behind_it() {
    let (server, client) = Double::start();
    let reset = ThreadReset {
        reason: Reason::HistoryChanged.into(),
        message: "restored".to_owned(),
        cursor: Some(cursor("t", "new", 7)),
    };
    let script = vec![Item::Reset(reset.clone()), heartbeat(), Item::Event(event("t", 8))];
    let mut subscription = scripted(&client, &server, script).after([cursor("t", "old", 99)]);
    assert!(matches!(subscription.next().await.unwrap(), News::Reset(told) if told == reset));
    assert!(matches!(subscription.next().await.unwrap(), News::Quiet));
    let News::Event(event) = subscription.next().await.unwrap() else { panic!("no event") };
    assert_eq!(event.cursor(), cursor("t", "new", 8));
    assert_eq!(subscription.cursors(), [cursor("t", "new", 8)]);
    assert_eq!(server.state().subscribed[0].cursors, [cursor("t", "old", 99)]);
}

#[tokio::test(start_paused = true)]
async fn from_now_leaves_out_what_was_before() {
    let (server, client) = Double::start();
    server.post("t");
    let mut subscription = Subscription::all(&client).from_now();
    assert!(matches!(subscription.next().await.unwrap(), News::Started(place) if place.sequence == 1));
    server.post("t");
    assert_eq!(read(&mut subscription, 1).await, [("t".to_owned(), 2)]);
    assert_eq!(server.state().subscribed[0].start(), Start::Now);
}
