//! How far devices have come.

use flotilla_proto::threads::v1::{AckRequest, ThreadCursor};
use tonic::Status;

use crate::server::{Server, all, from, refusal, unique};

pub(crate) async fn ack(
    server: &Server,
    (user, device): (&str, &str),
    cursors: &[(&str, u64)],
) -> Result<Vec<u64>, Status> {
    let history = server.replica.history().to_string();
    let cursors = cursors.iter().map(|&(thread, sequence)| ThreadCursor {
        thread_id: thread.into(),
        history: history.clone(),
        sequence,
    });
    let request = AckRequest { cursors: cursors.collect(), request_id: unique() };
    let answer = server.threads().ack(from(user, device, request)).await?.into_inner();
    Ok(answer.cursors.into_iter().map(|cursor| cursor.sequence).collect())
}

#[tokio::test]
async fn a_device_goes_on_after_what_it_acknowledged() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let thread = server.thread(&ada, &[]).await.id;
    for _ in 0..4 {
        server.post(&ada, &thread, "x").await.expect("an event");
    }
    assert_eq!(ack(&server, (&ada, "phone"), &[(&thread, 3)]).await.expect("stored"), [3]);
    let mut stream = server.subscribe(&ada, "phone", all()).await;
    assert_eq!(stream.sequences(2).await, [4, 5]);
}

#[tokio::test]
async fn two_devices_of_a_user_have_places_of_their_own() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let thread = server.thread(&ada, &[]).await.id;
    server.post(&ada, &thread, "x").await.expect("an event");
    ack(&server, (&ada, "phone"), &[(&thread, 2)]).await.expect("stored");
    ack(&server, (&ada, "laptop"), &[(&thread, 1)]).await.expect("stored");
    server.post(&ada, &thread, "y").await.expect("an event");
    assert_eq!(server.subscribe(&ada, "phone", all()).await.sequences(1).await, [3]);
    assert_eq!(server.subscribe(&ada, "laptop", all()).await.sequences(2).await, [2, 3]);
    assert_eq!(server.subscribe(&ada, "watch", all()).await.sequences(3).await, [1, 2, 3]);
}

#[tokio::test]
async fn an_acknowledgement_that_comes_late_changes_nothing() {
    let server = Server::start().await;
    let ada = server.user("Ada").await;
    let thread = server.thread(&ada, &[]).await.id;
    for _ in 0..4 {
        server.post(&ada, &thread, "x").await.expect("an event");
    }
    ack(&server, (&ada, "phone"), &[(&thread, 4)]).await.expect("stored");
    assert_eq!(ack(&server, (&ada, "phone"), &[(&thread, 2)]).await.expect("stored"), [4]);
}

#[tokio::test]
async fn what_cannot_be_acknowledged_is_refused_and_nothing_is_stored() {
    let server = Server::start().await;
    let (ada, eve) = (server.user("Ada").await, server.user("Eve").await);
    let [first, second] = [server.thread(&ada, &[]).await.id, server.thread(&ada, &[]).await.id];
    let phone = (ada.as_str(), "phone");
    assert_eq!(refusal(ack(&server, phone, &[(&first, 1), (&second, 2)]).await), "SEQUENCE_IN_FUTURE");
    assert_eq!(refusal(ack(&server, phone, &[(&first, 1), (&unique(), 1)]).await), "THREAD_NOT_FOUND");
    assert_eq!(refusal(ack(&server, phone, &[(&first, 1), (&first, 1)]).await), "INVALID_FIELD");
    assert_eq!(refusal(ack(&server, phone, &[]).await), "INVALID_FIELD");
    assert_eq!(refusal(ack(&server, (&eve, "phone"), &[(&first, 1)]).await), "NOT_MEMBER");
    assert_eq!(refusal(ack(&server, (&ada, ""), &[(&first, 1)]).await), "CALLER_MISSING");
    let many: Vec<String> = (0..201).map(|_| unique()).collect();
    let many: Vec<(&str, u64)> = many.iter().map(|thread| (thread.as_str(), 1)).collect();
    assert_eq!(refusal(ack(&server, phone, &many).await), "LIMIT_EXCEEDED");
    let other = ThreadCursor { thread_id: first.clone(), history: "other".into(), sequence: 1 };
    let request = AckRequest { cursors: vec![other], request_id: unique() };
    assert_eq!(refusal(server.threads().ack(from(&ada, "phone", request)).await), "HISTORY_CHANGED");
    // Still from the beginning.
    let mut stream = server.subscribe(&ada, "phone", all()).await;
    assert_eq!(stream.sequences(2).await, [1, 1]);
}
