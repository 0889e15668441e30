//! Calls with one answer.

use std::time::Duration;

use flotilla_proto::peer::v1 as peer;
use flotilla_replica::peer::{Call, MAX_MESSAGE, Network, PeerError, Refusal};

use crate::harness::{PATIENCE, Peer, agreeable, answer_to, introduction, network, secret};

fn every_kind() -> Vec<Call> {
    let transaction =
        peer::ProposedTransaction { transaction: vec![1; 3 << 20].into(), timeout_micros: 5, check_id: String::new() };
    vec![
        Call::Vote(peer::VoteRequest { pre_vote: true, ..Default::default() }),
        Call::TransferLeader(peer::TransferLeaderRequest::default()),
        Call::Propose(peer::ProposeRequest { transactions: vec![transaction] }),
        Call::ReadIndex(peer::ReadIndexRequest {}),
        Call::Describe(peer::DescribeRequest {}),
        Call::Change(peer::ChangeRequest { timeout_micros: 8, ..Default::default() }),
        Call::GetCheckReport(peer::GetCheckReportRequest { id: "check".into(), timeout_micros: 1 }),
    ]
}

#[tokio::test]
async fn each_kind_of_call_arrives_whole_and_returns_whole() {
    let host = agreeable();
    let shared = "a-secret-of-many-bytes";
    let peer = Peer::start(host.clone(), Some(secret(shared))).await;
    let network = flotilla_peers::PeerNetwork::new(Some(secret(shared)));
    for call in every_kind() {
        let answer = network.call(&peer.addresses(), introduction(), call.clone(), PATIENCE).await.unwrap();
        assert_eq!(answer, answer_to(&call));
        assert_eq!(host.calls.lock().unwrap().pop(), Some((introduction(), call)));
    }
}

#[tokio::test]
async fn who_has_no_history_and_means_nobody_in_particular_is_heard_as_such() {
    let host = agreeable();
    let peer = Peer::start(host.clone(), None).await;
    let mut stranger = introduction();
    (stranger.history, stranger.to) = (String::new(), None);
    let call = Call::Describe(peer::DescribeRequest {});
    network().call(&peer.addresses(), stranger.clone(), call, PATIENCE).await.unwrap();
    assert_eq!(host.calls.lock().unwrap()[0].0, stranger);
}

#[tokio::test]
async fn no_answer_within_the_time_of_the_call_is_a_time_out() {
    let host = std::sync::Arc::new(crate::harness::FakeHost::default());
    let peer = Peer::start(host.clone(), None).await;
    let timeout = Duration::from_millis(300);
    let call = Call::ReadIndex(peer::ReadIndexRequest {});
    let error = network().call(&peer.addresses(), introduction(), call, timeout).await.unwrap_err();
    assert!(matches!(error, PeerError::TimedOut(after) if after == timeout), "{error:?}");
}

#[tokio::test]
async fn a_call_that_is_too_large_is_refused_before_it_is_sent() {
    let host = agreeable();
    let peer = Peer::start(host.clone(), None).await;
    let transaction = peer::ProposedTransaction {
        transaction: vec![1; MAX_MESSAGE].into(),
        timeout_micros: 5,
        check_id: String::new(),
    };
    let call = Call::Propose(peer::ProposeRequest { transactions: vec![transaction] });
    let error = network().call(&peer.addresses(), introduction(), call, PATIENCE).await.unwrap_err();
    assert!(matches!(error, PeerError::Refused { refusal: Refusal::Malformed, .. }), "{error:?}");
    assert!(host.calls.lock().unwrap().is_empty());
}
