//! Who isn't listened to: by the right kind, counted, and without a word to the host.

use std::sync::{Arc, OnceLock};

use flotilla_peers::PeerNetwork;
use flotilla_proto::peer::v1::{self as peer, peer_service_client::PeerServiceClient};
use flotilla_replica::peer::{Host, MAX_MESSAGE, PROTOCOL, PeerError, Refusal};
use tokio::net::TcpListener;
use tonic::{Request, Status};
use tonic_types::StatusExt;

use crate::harness::{Peer, agreeable, free, network, read_index, replying, secret};

fn kind(error: PeerError) -> Refusal {
    match error {
        PeerError::Refused { refusal, .. } => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// A program with its own idea of what to say.
async fn stranger(peer: &Peer, metadata: &[(&'static str, &'static str)]) -> Status {
    let transaction = peer::ProposedTransaction::default();
    foreign(peer, metadata, peer::ProposeRequest { transactions: vec![transaction] }).await
}

async fn foreign(peer: &Peer, metadata: &[(&'static str, &'static str)], message: peer::ProposeRequest) -> Status {
    let mut client = PeerServiceClient::connect(format!("http://{}", peer.address)).await.unwrap();
    let mut request = Request::new(message);
    for (key, value) in metadata {
        request.metadata_mut().insert(*key, value.parse().unwrap());
    }
    client.propose(request).await.unwrap_err()
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().map_or_else(|| format!("{status:?}"), |info| info.reason)
}

#[tokio::test]
async fn a_wrong_and_a_missing_secret_are_refused() {
    let host = agreeable();
    let peer = Peer::start(host.clone(), Some(secret("the-secret-of-the-cell"))).await;
    for shown in [None, Some("the-secret-of-the-cell2"), Some("the-secret-of-the-celL"), Some("sixteen-bytes-ok")] {
        let network = PeerNetwork::new(shown.map(secret));
        assert_eq!(kind(read_index(&network, &peer.addresses()).await.unwrap_err()), Refusal::Secret);
    }
    assert_eq!(peer.refused("secret"), 4);
    assert!(host.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let host = agreeable();
    let peer = Peer::start(host.clone(), None).await;
    let status = stranger(&peer, &[("flotilla-peer-protocol", "99")]).await;
    assert_eq!(reason(&status), "PEER_OF_OTHER_PROTOCOL");
    assert_eq!(peer.refused("protocol"), 1);
    assert!(host.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn malformed_metadata_is_refused() {
    assert_eq!(PROTOCOL, 1, "as below");
    let host = agreeable();
    let peer = Peer::start(host.clone(), None).await;
    let (protocol, cell) = (("flotilla-peer-protocol", "1"), ("flotilla-peer-cell", "cell"));
    let malformed: [&[_]; 7] = [
        &[],
        &[("flotilla-peer-protocol", "one"), cell, ("flotilla-peer-from", "1.1")],
        &[protocol, ("flotilla-peer-from", "1.1")],
        &[protocol, cell],
        &[protocol, cell, ("flotilla-peer-from", "1")],
        &[protocol, cell, ("flotilla-peer-from", "1.1"), ("flotilla-peer-to", "-1.4")],
        &[protocol, ("flotilla-peer-cell", "%ff"), ("flotilla-peer-from", "1.1")],
    ];
    for metadata in malformed {
        assert_eq!(reason(&stranger(&peer, metadata).await), "PEER_MALFORMED", "{metadata:?}");
    }
    assert_eq!(peer.refused("malformed"), 7);
    assert!(host.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused() {
    let host = agreeable();
    let peer = Peer::start(host.clone(), None).await;
    let metadata = [("flotilla-peer-protocol", "1"), ("flotilla-peer-cell", "cell"), ("flotilla-peer-from", "1.1")];
    let transaction = peer::ProposedTransaction {
        transaction: vec![0; MAX_MESSAGE].into(),
        timeout_micros: 1,
        check_id: String::new(),
    };
    let status = foreign(&peer, &metadata, peer::ProposeRequest { transactions: vec![transaction] }).await;
    assert_eq!(reason(&status), "PEER_MALFORMED");
    assert_eq!(peer.refused("malformed"), 1);
    assert!(host.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_server_that_is_starting_says_so_and_answers_when_it_has_started() {
    let slot: Arc<OnceLock<Arc<dyn Host>>> = Arc::default();
    let peer = Peer::on(TcpListener::bind(free()).await.unwrap(), slot.clone(), None);
    let network = network();
    assert_eq!(kind(read_index(&network, &peer.addresses()).await.unwrap_err()), Refusal::NotServing);
    let _ = slot.set(agreeable());
    read_index(&network, &peer.addresses()).await.unwrap();
}

#[tokio::test]
async fn what_the_host_refuses_returns_with_its_kind_and_its_words() {
    for refusal in [Refusal::Cell, Refusal::History, Refusal::Recipient, Refusal::NotServing] {
        let message = "Zelle „zwei“ ist nicht diese".to_owned();
        let words = message.clone();
        let host = replying(move |_| Err(PeerError::Refused { refusal, message: words.clone() }));
        let peer = Peer::start(host, None).await;
        let error = read_index(&network(), &peer.addresses()).await.unwrap_err();
        assert_eq!(error.to_string(), message);
        assert_eq!(kind(error), refusal);
    }
}

#[tokio::test]
async fn a_failure_of_the_host_that_is_no_refusal_may_have_had_an_effect() {
    let host = replying(|_| Err(PeerError::Unreachable("somebody else".into())));
    let peer = Peer::start(host, None).await;
    let error = read_index(&network(), &peer.addresses()).await.unwrap_err();
    assert!(matches!(error, PeerError::Broken(_)), "{error:?}");
}

#[tokio::test]
async fn a_program_without_the_service_did_nothing() {
    let listener = TcpListener::bind(free()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = tonic::transport::Server::builder().add_routes(tonic::service::Routes::default());
    tokio::spawn(serving.serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener)));
    assert_eq!(kind(read_index(&network(), &[address]).await.unwrap_err()), Refusal::Protocol);
}
