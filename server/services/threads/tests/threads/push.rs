//! Subscriptions: what comes, from where on, and to whom.

use flotilla_proto::{
    errors::v1::Reason,
    threads::v1::{SubscribeRequest, ThreadCursor, subscribe_request::Start, subscribe_response::Item},
};

use crate::{
    members::{add, remove},
    server::{Server, all, reason, refusal, text, unique},
};

fn at(server: &Server, thread: &str, sequence: u64) -> ThreadCursor {
    ThreadCursor { thread_id: thread.into(), history: server.replica.history().to_string(), sequence }
}

#[tokio::test]
async fn two_subscribers_both_get_every_event_in_order() {
    let server = Server::start().await;
    let (ada, bob) = (server.user("Ada").await, server.user("Bob").await);
    let thread = server.thread(&ada, &[&bob]).await.id;
    let mut first = server.subscribe(&ada, "phone", all()).await;
    let mut second = server.subscribe(&bob, "phone", all()).await;
    for number in 0..300 {
        server.post(&ada, &thread, &number.to_string()).await.expect("an event");
    }
    assert_eq!(first.sequences(302).await, (1..=302).collect::<Vec<u64>>());
    // Bob's begin with his joining.
    assert_eq!(second.sequences(301).await, (2..=302).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_stream_says_first_where_every_thread_starts() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let [quiet, busy] = [server.thread(&ada, &[]).await.id, server.thread(&ada, &[]).await.id];
    server.post(&ada, &busy, "x").await.expect("an event");
    let mut now = server.subscribe(&ada, "phone", SubscribeRequest { start: Start::Now.into(), ..all() }).await;
    let opening = now.opening().await;
    assert!(opening.contains(&Item::Started(at(&server, &quiet, 1))), "{opening:?}");
    assert!(opening.contains(&Item::Started(at(&server, &busy, 2))), "{opening:?}");
    let cursors = vec![at(&server, &busy, 1)];
    let mut placed = server.subscribe(&ada, "tablet", SubscribeRequest { cursors, ..all() }).await;
    let opening = placed.opening().await;
    assert!(opening.contains(&Item::Started(at(&server, &quiet, 0))), "{opening:?}");
    assert!(opening.contains(&Item::Started(at(&server, &busy, 1))), "{opening:?}");
}

#[tokio::test]
async fn a_stream_of_named_threads_has_those_alone() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let [wanted, other] = [server.thread(&ada, &[]).await.id, server.thread(&ada, &[]).await.id];
    let request = SubscribeRequest { thread_ids: vec![wanted.clone()], start: Start::Now.into(), ..all() };
    let mut stream = server.subscribe(&ada, "phone", request).await;
    server.post(&ada, &other, "not this").await.expect("an event");
    server.thread(&ada, &[]).await;
    server.post(&ada, &wanted, "this").await.expect("an event");
    let event = stream.event().await;
    assert_eq!((event.thread_id.as_str(), text(&event)), (wanted.as_str(), "this"));
}

#[tokio::test]
async fn a_thread_that_the_user_is_added_to_later_joins_the_stream() {
    let server = Server::start().await;
    let (ada, bob) = (server.user("Ada").await, server.user("Bob").await);
    let mut stream = server.subscribe(&bob, "phone", all()).await;
    assert!(stream.opening().await.is_empty());
    let thread = server.thread(&ada, &[]).await.id;
    server.post(&ada, &thread, "before").await.expect("an event");
    add(&server, &ada, &thread, &bob).await.expect("a member");
    server.post(&ada, &thread, "after").await.expect("an event");
    assert_eq!(stream.item().await.expect("a start"), Item::Started(at(&server, &thread, 2)));
    assert_eq!(stream.sequences(2).await, [3, 4]);
}

#[tokio::test]
async fn removal_stops_events_at_once() {
    let server = Server::start().await;
    let (ada, bob) = (server.user("Ada").await, server.user("Bob").await);
    let thread = server.thread(&ada, &[&bob]).await.id;
    let mut stream = server.subscribe(&bob, "phone", all()).await;
    assert_eq!(stream.sequences(1).await, [2]);
    remove(&server, &ada, &thread, &bob).await;
    server.post(&ada, &thread, "secret").await.expect("an event");
    // Of another thread, to see that nothing of the first came before it.
    let other = server.thread(&bob, &[]).await.id;
    assert_eq!(stream.event().await.sequence, 3, "the removal itself");
    assert_eq!(stream.item().await.expect("a start"), Item::Started(at(&server, &other, 0)));
    assert_eq!(stream.event().await.thread_id, other);
}

#[tokio::test]
async fn who_is_behind_gets_nothing_from_after_the_removal() {
    let server = Server::start().await;
    let (ada, bob) = (server.user("Ada").await, server.user("Bob").await);
    let thread = server.thread(&ada, &[&bob]).await.id;
    let mut stream = server.subscribe(&bob, "phone", all()).await;
    for _ in 0..500 {
        server.post(&ada, &thread, "x").await.expect("an event");
    }
    remove(&server, &ada, &thread, &bob).await;
    for _ in 0..500 {
        server.post(&ada, &thread, "secret").await.expect("an event");
    }
    assert_eq!(stream.sequences(502).await, (2..=503).collect::<Vec<u64>>());
    add(&server, &ada, &thread, &bob).await.expect("a member again");
    assert_eq!(stream.item().await.expect("a start"), Item::Started(at(&server, &thread, 1003)));
    assert_eq!(stream.event().await.sequence, 1004);
}

#[tokio::test]
async fn who_was_removed_and_added_again_starts_with_the_joining() {
    let server = Server::start().await;
    let (ada, bob) = (server.user("Ada").await, server.user("Bob").await);
    let thread = server.thread(&ada, &[&bob]).await.id;
    remove(&server, &ada, &thread, &bob).await;
    server.post(&ada, &thread, "secret").await.expect("an event");
    add(&server, &ada, &thread, &bob).await.expect("a member again");
    let mut stream = server.subscribe(&bob, "phone", all()).await;
    assert_eq!(stream.item().await.expect("a start"), Item::Started(at(&server, &thread, 4)));
    server.post(&ada, &thread, "hello").await.expect("an event");
    assert_eq!(stream.sequences(2).await, [5, 6]);
}

#[tokio::test]
async fn a_removal_in_a_backlog_ends_the_thread_whatever_comes_meanwhile() {
    let server = Server::start().await;
    let (ada, bob) = (server.user("Ada").await, server.user("Bob").await);
    let thread = server.thread(&ada, &[&bob]).await.id;
    let mut stream = server.subscribe(&bob, "phone", all()).await;
    // More than goes through without being read.
    let large = "x".repeat(32 * 1024);
    for _ in 0..40 {
        server.post(&ada, &thread, &large).await.expect("an event");
    }
    remove(&server, &ada, &thread, &bob).await;
    for sequence in 2..=43 {
        server.post(&ada, &thread, "secret").await.expect("an event");
        assert_eq!(stream.event().await.sequence, sequence);
    }
    let other = server.thread(&bob, &[]).await.id;
    assert_eq!(stream.event().await.thread_id, other);
}

#[tokio::test]
async fn what_happened_between_a_removal_and_a_return_is_not_sent() {
    let server = Server::start().await;
    let (ada, bob) = (server.user("Ada").await, server.user("Bob").await);
    let thread = server.thread(&ada, &[&bob]).await.id;
    // On an open stream that doesn't read, and on one that is opened later.
    let mut stalled = server.subscribe(&bob, "phone", all()).await;
    let large = "x".repeat(32 * 1024);
    for _ in 0..40 {
        server.post(&ada, &thread, &large).await.expect("an event");
    }
    for _ in 0..3 {
        remove(&server, &ada, &thread, &bob).await;
        server.post(&ada, &thread, "secret").await.expect("an event");
        add(&server, &ada, &thread, &bob).await.expect("a member again");
        server.post(&ada, &thread, "hello").await.expect("an event");
    }
    let cursors = vec![at(&server, &thread, 42)];
    let mut late = server.subscribe(&bob, "laptop", SubscribeRequest { cursors, ..all() }).await;
    // Removals are 43, 47 and 51, returns 45, 49 and 53.
    assert_eq!(
        stalled.sequences(50).await,
        (2..=43).chain(45..=47).chain(49..=51).chain(53..=54).collect::<Vec<u64>>()
    );
    assert_eq!(late.sequences(3).await, [43, 53, 54]);
}

#[tokio::test]
async fn a_place_that_makes_no_sense_is_answered_with_a_reset_and_the_stream_goes_on() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let thread = server.thread(&ada, &[]).await.id;
    let other = ThreadCursor { history: "other".into(), ..at(&server, &thread, 1) };
    for (cursor, wanted) in [(at(&server, &thread, 99), Reason::SequenceInFuture), (other, Reason::HistoryChanged)] {
        let request = SubscribeRequest { cursors: vec![cursor], ..all() };
        let mut stream = server.subscribe(&ada, "phone", request).await;
        let Ok(Item::Reset(reset)) = stream.item().await else { panic!("expected a reset") };
        assert_eq!(reset.reason(), wanted);
        let place = reset.cursor.expect("a place to go on from");
        let posted = server.post(&ada, &thread, "x").await.expect("an event");
        assert_eq!(posted.sequence, place.sequence + 1);
        assert_eq!(stream.event().await, posted);
    }
}

#[tokio::test]
async fn wrong_subscriptions_are_refused_by_reason() {
    let server = Server::start().await;
    let (ada, eve) = (server.user("Ada").await, server.user("Eve").await);
    let thread = server.thread(&ada, &[]).await.id;
    let named = |threads: &[&str]| SubscribeRequest {
        thread_ids: threads.iter().map(|&thread| thread.to_owned()).collect(),
        ..all()
    };
    let refused = async |user: &str, request| refusal(server.try_subscribe(user, "phone", request).await.map(|_| ()));
    assert_eq!(refused(&eve, named(&[&thread])).await, "NOT_MEMBER");
    assert_eq!(refused(&ada, named(&[&thread, &unique()])).await, "THREAD_NOT_FOUND");
    let many: Vec<String> = (0..1_001).map(|_| unique()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(refused(&ada, named(&many)).await, "LIMIT_EXCEEDED");
    let foreign = SubscribeRequest { cursors: vec![at(&server, &unique(), 1)], ..named(&[&thread]) };
    assert_eq!(refused(&ada, foreign).await, "INVALID_FIELD");
    assert_eq!(refused(&ada, SubscribeRequest { start: 7, ..all() }).await, "INVALID_FIELD");
}

#[tokio::test]
async fn a_stopping_server_ends_its_streams_so_that_clients_come_back() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let thread = server.thread(&ada, &[]).await.id;
    let mut stream = server.subscribe(&ada, "phone", all()).await;
    assert_eq!(stream.sequences(1).await, [1]);
    server.stopping.send_replace(true);
    assert_eq!(reason(&stream.end().await), "SHUTTING_DOWN");
    drop(stream);
    let server = server.restart().await;
    server.post(&ada, &thread, "x").await.expect("an event");
    let request = SubscribeRequest { cursors: vec![at(&server, &thread, 1)], ..all() };
    assert_eq!(server.subscribe(&ada, "phone", request).await.sequences(1).await, [2]);
}

#[tokio::test]
async fn a_subscriber_that_reads_nothing_delays_no_writer_and_loses_nothing() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let thread = server.thread(&ada, &[]).await.id;
    let mut stalled = server.subscribe(&ada, "phone", all()).await;
    let mut other = server.subscribe(&ada, "laptop", all()).await;
    // More than any window on the way and any memory of the server's takes.
    let large = "x".repeat(64 * 1024);
    for _ in 0..200 {
        server.post(&ada, &thread, &large).await.expect("an event");
        other.event().await;
    }
    assert_eq!(stalled.sequences(201).await, (1..=201).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_users_many_threads_all_arrive() {
    let server = Server::start().await;
    let (ada, bob) = (server.user("Ada").await, server.user("Bob").await);
    let mut stream = server.subscribe(&bob, "phone", all()).await;
    let mut threads = Vec::new();
    for _ in 0..100 {
        threads.push(server.thread(&ada, &[&bob]).await.id);
    }
    futures::future::join_all(threads.iter().map(|thread| server.post(&ada, thread, "x"))).await;
    let mut seen = std::collections::BTreeMap::<String, Vec<u64>>::new();
    // Bob's joining and the post; before his joining he wasn't there.
    for _ in 0..200 {
        let event = stream.event().await;
        seen.entry(event.thread_id).or_default().push(event.sequence);
    }
    assert_eq!(seen.len(), 100);
    assert!(seen.values().all(|sequences| sequences == &[2, 3]), "{seen:?}");
}
