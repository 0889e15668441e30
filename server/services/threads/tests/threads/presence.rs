//! Who is connected.

use std::time::Duration;

use flotilla_proto::threads::v1::{Device, ListDevicesRequest, SubscribeRequest, subscribe_response::Item};
use tokio::time::Instant;

use crate::{
    acks::ack,
    server::{Server, all, by, from, reason, refusal},
};

async fn devices(server: &Server, user: &str, thread: &str) -> Vec<Device> {
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let request = ListDevicesRequest { thread_id: thread.into(), page_size: 2, page_token: token };
        let page = server.threads().list_devices(by(user, request)).await.expect("devices").into_inner();
        assert!(page.devices.len() <= 2);
        found.extend(page.devices);
        token = page.next_page_token;
        if token.is_empty() {
            return found;
        }
    }
}

#[tokio::test]
async fn devices_are_listed_with_presence_and_place() {
    let server = Server::start().await;
    let (ada, bob) = (server.user("Ada").await, server.user("Bob").await);
    let thread = server.thread(&ada, &[&bob]).await.id;
    let mut streams = Vec::new();
    for (user, device) in [(&ada, "phone"), (&ada, "laptop"), (&bob, "phone")] {
        let mut stream = server.subscribe(user, device, all()).await;
        stream.opening().await;
        streams.push(stream);
    }
    ack(&server, (&ada, "phone"), &[(&thread, 2)]).await.expect("stored");
    ack(&server, (&bob, "watch"), &[(&thread, 1)]).await.expect("stored");
    let found = devices(&server, &ada, &thread).await;
    let shown: Vec<_> = found
        .iter()
        .map(|device| (device.user_id.as_str(), device.device.as_str(), device.connected, device.sequence))
        .collect();
    let (ada_, bob_) = (ada.as_str(), bob.as_str());
    let mut wanted =
        vec![(ada_, "laptop", true, 0), (ada_, "phone", true, 2), (bob_, "phone", true, 0), (bob_, "watch", false, 1)];
    wanted.sort_unstable();
    assert_eq!(shown, wanted);
    assert!(found.iter().all(|device| device.connected == (device.server_id == 1)));
    assert!(found.iter().all(|device| device.connected == device.connect_time.is_some()));

    drop(streams);
    let deadline = Instant::now() + Duration::from_secs(30);
    while devices(&server, &ada, &thread).await.iter().any(|device| device.connected) {
        assert!(Instant::now() < deadline, "a device that has gone is still shown");
        tokio::task::yield_now().await;
    }
    assert_eq!(devices(&server, &ada, &thread).await.len(), 2, "those with a stored place");
}

#[tokio::test]
async fn strangers_learn_nothing_of_devices() {
    let server = Server::start().await;
    let (ada, eve) = (server.user("Ada").await, server.user("Eve").await);
    let thread = server.thread(&ada, &[]).await.id;
    let request = ListDevicesRequest { thread_id: thread, ..Default::default() };
    assert_eq!(refusal(server.threads().list_devices(by(&eve, request)).await), "NOT_MEMBER");
}

#[tokio::test]
async fn a_newer_stream_of_a_device_takes_over_and_the_older_is_told() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let thread = server.thread(&ada, &[]).await.id;
    let mut older = server.subscribe(&ada, "phone", all()).await;
    let mut other = server.subscribe(&ada, "laptop", all()).await;
    let mut newer = server.subscribe(&ada, "phone", all()).await;
    assert_eq!(reason(&older.end().await), "DEVICE_TAKEN_OVER");
    server.post(&ada, &thread, "x").await.expect("an event");
    assert_eq!(newer.sequences(2).await, [1, 2]);
    assert_eq!(other.sequences(2).await, [1, 2]);
}

#[tokio::test]
async fn of_a_thousand_streams_of_one_device_the_last_lives() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let thread = server.thread(&ada, &[]).await.id;
    let mut streams = Vec::new();
    for _ in 0..1_000 {
        streams.push(server.subscribe(&ada, "phone", all()).await);
    }
    let mut last = streams.pop().expect("a stream");
    for mut stream in streams {
        assert_eq!(reason(&stream.end().await), "DEVICE_TAKEN_OVER");
    }
    server.post(&ada, &thread, "x").await.expect("an event");
    assert_eq!(last.sequences(2).await, [1, 2]);
    assert_eq!(devices(&server, &ada, &thread).await.len(), 1);
}

#[tokio::test]
async fn a_request_that_makes_no_sense_takes_nothing_over() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let thread = server.thread(&ada, &[]).await.id;
    let mut stream = server.subscribe(&ada, "phone", all()).await;
    let wrong = SubscribeRequest { thread_ids: vec!["x".into()], ..all() };
    assert_eq!(refusal(server.try_subscribe(&ada, "phone", wrong).await.map(|_| ())), "INVALID_FIELD");
    server.post(&ada, &thread, "x").await.expect("an event");
    assert_eq!(stream.sequences(2).await, [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_gave_up_and_came_back_is_not_taken_over_by_what_it_gave_up() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let thread = server.thread(&ada, &[]).await.id;
    let mut client = server.threads();
    for round in 0..40 {
        for polls in 0..10 {
            let mut abandoned = client.clone();
            let mut opening = std::pin::pin!(abandoned.subscribe(from(&ada, "phone", all())));
            for _ in 0..polls {
                if futures::poll!(opening.as_mut()).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let mut stream = client.subscribe(from(&ada, "phone", all())).await.expect("a stream").into_inner();
        let posted = server.post(&ada, &thread, "x").await.expect("an event");
        loop {
            let message = stream.message().await.unwrap_or_else(|status| panic!("round {round}: {status:?}"));
            match message.expect("the stream goes on").item {
                Some(Item::Event(event)) if event == posted => break,
                _ => {}
            }
        }
        ack(&server, (&ada, "phone"), &[(&thread, posted.sequence)]).await.expect("stored");
    }
}
