//! Appends and snapshots.

use std::time::Duration;

use flotilla_proto::{
    peer::v1::{self as peer, install_snapshot_request::Part},
    storage::v1::{LogEntry, log_entry::Payload},
};
use flotilla_replica::peer::{MAX_MESSAGE, Network, PeerError, Refusal, SNAPSHOT_CHUNK};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::{sync::mpsc, time::timeout};

use crate::harness::{PATIENCE, Peer, agreeable, append, appended, holding, introduction, network, read_index, until};

/// Requests that a test sends one by one.
fn by_hand<T: Send + 'static>() -> (mpsc::Sender<T>, stream::BoxStream<'static, T>) {
    let (sender, receiver) = mpsc::channel(16);
    let requests = stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    (sender, requests.boxed())
}

/// How long appends are tried to be sent to a host that takes none.
const STALL: Duration = Duration::from_millis(500);

/// An entry of so many bytes.
fn entry(bytes: usize) -> LogEntry {
    LogEntry { payload: Some(Payload::Command(vec![1; bytes].into())), ..Default::default() }
}

#[tokio::test]
async fn the_second_append_arrives_before_the_first_is_answered() {
    let host = holding();
    let peer = Peer::start(host.clone(), None).await;
    let (sender, requests) = by_hand();
    let mut answers = network().append(&peer.addresses(), introduction(), requests).await.unwrap();
    sender.send(append(1)).await.unwrap();
    sender.send(append(2)).await.unwrap();
    until("both arrive", || host.appends.borrow().len() == 2).await;
    host.release.notify_one();
    for index in [1, 2] {
        let answer = timeout(PATIENCE, answers.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(answer, appended(index));
    }
    assert_eq!(*host.streams.lock().unwrap(), [introduction()]);
}

#[tokio::test]
async fn answers_come_while_the_requests_go_on_and_end_when_they_do() {
    let host = agreeable();
    let peer = Peer::start(host.clone(), None).await;
    let (sender, requests) = by_hand();
    let mut answers = network().append(&peer.addresses(), introduction(), requests).await.unwrap();
    for index in 1..100 {
        sender.send(append(index)).await.unwrap();
        let answer = timeout(PATIENCE, answers.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(answer, appended(index));
    }
    drop(sender);
    assert!(timeout(PATIENCE, answers.next()).await.unwrap().is_none());
}

#[tokio::test]
async fn an_append_that_is_too_large_ends_the_stream_after_what_came_before_it() {
    let host = agreeable();
    let peer = Peer::start(host.clone(), None).await;
    let entry = entry(MAX_MESSAGE);
    let large = peer::AppendRequest { entries: vec![entry], ..append(2) };
    let requests = stream::iter([append(1), large, append(3)]).boxed();
    let mut answers = network().append(&peer.addresses(), introduction(), requests).await.unwrap();
    assert_eq!(timeout(PATIENCE, answers.next()).await.unwrap().unwrap().unwrap(), appended(1));
    let error = timeout(PATIENCE, answers.next()).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, PeerError::Refused { refusal: Refusal::Malformed, .. }), "{error:?}");
    assert!(answers.next().await.is_none());
    assert_eq!(host.appends.borrow().len(), 1);
}

#[tokio::test]
async fn a_snapshot_of_several_mebibytes_passes_while_calls_go_on() {
    let host = agreeable();
    let peer = Peer::start(host.clone(), None).await;
    let network = network();
    let offer = peer::InstallSnapshotRequest { part: Some(Part::Offer(peer::SnapshotOffer::default())) };
    let chunk = peer::InstallSnapshotRequest { part: Some(Part::Chunk(vec![7; SNAPSHOT_CHUNK].into())) };
    let (sender, requests) = by_hand();
    let answers = network.install_snapshot(&peer.addresses(), introduction(), requests).await.unwrap();
    sender.send(offer).await.unwrap();
    for _ in 0..64 {
        sender.send(chunk.clone()).await.unwrap();
        read_index(&network, &peer.addresses()).await.unwrap();
    }
    drop(sender);
    let answers: Vec<_> = timeout(PATIENCE, answers.try_collect()).await.unwrap().unwrap();
    let total = 64 * SNAPSHOT_CHUNK as u64;
    let part = Some(peer::install_snapshot_response::Part::Offset(total));
    assert_eq!(answers, [peer::InstallSnapshotResponse { part }]);
}

#[tokio::test]
async fn a_receiver_that_takes_no_appends_still_answers_calls() {
    let host = holding();
    let peer = Peer::start(host.clone(), None).await;
    let network = network();
    let (sender, requests) = by_hand();
    let _answers = network.append(&peer.addresses(), introduction(), requests).await.unwrap();
    let more = async {
        for index in 0..1_000 {
            sender.send(peer::AppendRequest { entries: vec![entry(64 << 10)], ..append(index) }).await.unwrap();
        }
    };
    timeout(STALL, more).await.expect_err("the host and the connection are full");
    read_index(&network, &peer.addresses()).await.unwrap();
}
