//! Peers that are gone, that go, and that come back.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use flotilla_proto::peer::v1 as peer;
use flotilla_replica::peer::{Call, Host, Network, PeerError, Refusal};
use futures::{StreamExt, stream};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

use crate::harness::{
    FakeHost, PATIENCE, Peer, Wire, agreeable, append, free, introduction, network, read_index, replying, until,
};

/// A port where nobody listens yet; nobody else can take it.
fn silent_port() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(free()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

#[tokio::test]
async fn a_peer_that_is_down_is_unreachable() {
    let (_socket, address) = silent_port();
    let error = read_index(&network(), &[address]).await.unwrap_err();
    assert!(matches!(error, PeerError::Unreachable(_)), "{error:?}");
}

#[tokio::test]
async fn an_address_that_is_none_and_no_address_at_all_are_unreachable() {
    for addresses in [vec![], vec!["no port".to_owned()], vec!["does-not-exist.invalid:1".to_owned()]] {
        let error = read_index(&network(), &addresses).await.unwrap_err();
        assert!(matches!(error, PeerError::Unreachable(_)), "{addresses:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_peer_that_dies_amid_a_call_may_have_got_it() {
    let host = Arc::new(FakeHost::default());
    let peer = Peer::start(host.clone(), None).await;
    let wire = Wire::to(peer.address).await;
    let network = network();
    let addresses = [wire.address.to_string()];
    let call = tokio::spawn(async move { read_index(&network, &addresses).await });
    until("the call arrives", || host.calls.lock().unwrap().len() == 1).await;
    wire.cut();
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, PeerError::Broken(_)), "{error:?}");
}

#[tokio::test]
async fn a_peer_that_vanishes_without_a_word_is_noticed() {
    let peer = Peer::start(agreeable(), None).await;
    let wire = Wire::to(peer.address).await;
    let requests = stream::iter([append(1)]).chain(stream::pending()).boxed();
    let mut answers = network().append(&[wire.address.to_string()], introduction(), requests).await.unwrap();
    timeout(PATIENCE, answers.next()).await.unwrap().unwrap().unwrap();
    wire.silence();
    let error = timeout(PATIENCE, answers.next()).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, PeerError::Broken(_)), "{error:?}");
}

#[tokio::test]
async fn a_peer_that_comes_back_is_reached_within_a_second() {
    let network = network();
    let (socket, address) = silent_port();
    for _ in 0..20 {
        read_index(&network, std::slice::from_ref(&address)).await.unwrap_err();
    }
    let host: Arc<OnceLock<Arc<dyn Host>>> = Arc::default();
    let _ = host.set(agreeable());
    let _peer = Peer::on(socket.listen(16).unwrap(), host, None);
    let back = Instant::now();
    while read_index(&network, std::slice::from_ref(&address)).await.is_err() {
        assert!(back.elapsed() < Duration::from_secs(1), "reached late");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_connection_that_broke_while_nobody_used_it_is_no_dead_peer() {
    let peer = Peer::start(agreeable(), None).await;
    let (first, second) = (Wire::to(peer.address).await, Wire::to(peer.address).await);
    let addresses = [first.address.to_string(), second.address.to_string()];
    let network = network();
    read_index(&network, &addresses).await.unwrap();
    first.cut();
    // Seen before: the other address is taken. Seen only after sending: the call may have arrived.
    until("the wire is cut", || std::net::TcpStream::connect(first.address).is_ok()).await;
    let answer = read_index(&network, &addresses).await;
    assert!(!matches!(answer, Err(PeerError::Unreachable(_))), "{answer:?}");
}

#[tokio::test]
async fn the_second_address_is_used_when_the_first_is_dead() {
    let peer = Peer::start(agreeable(), None).await;
    let (_socket, dead) = silent_port();
    let addresses = [dead, peer.address.to_string()];
    let network = network();
    for _ in 0..3 {
        read_index(&network, &addresses).await.unwrap();
    }
}

#[tokio::test]
async fn the_second_address_is_tried_after_the_first_was_another_server() {
    let refusing = |_| Err(PeerError::Refused { refusal: Refusal::Recipient, message: "not me".into() });
    let (other, meant) = (Peer::start(replying(refusing), None).await, Peer::start(agreeable(), None).await);
    let addresses = [other.address.to_string(), meant.address.to_string()];
    let network = network();
    read_index(&network, &addresses).await.unwrap_err();
    read_index(&network, &addresses).await.unwrap();
}

/// An address that neither takes connections nor refuses them, as a machine that is off.
struct Mute {
    address: String,
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Mute {
    async fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(free()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        // Nobody accepts, so the queue is full soon.
        while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            waiting.push(stream.unwrap());
            assert!(waiting.len() < 1_000, "the queue of a listener is bounded");
        }
        Self { address: address.to_string(), _listener: listener, _waiting: waiting }
    }
}

#[tokio::test]
async fn a_call_whose_time_is_up_before_it_is_connected_was_never_sent() {
    let mute = Mute::new().await;
    let call = Call::ReadIndex(peer::ReadIndexRequest {});
    let time = Duration::from_millis(200);
    let error = network().call(std::slice::from_ref(&mute.address), introduction(), call, time).await.unwrap_err();
    assert!(matches!(error, PeerError::Unreachable(_)), "{error:?}");
}

#[tokio::test]
async fn an_address_that_says_nothing_leaves_time_for_the_next_one() {
    let mute = Mute::new().await;
    let peer = Peer::start(agreeable(), None).await;
    let addresses = [mute.address.clone(), peer.address.to_string()];
    let call = Call::ReadIndex(peer::ReadIndexRequest {});
    network().call(&addresses, introduction(), call, Duration::from_secs(1)).await.unwrap();
}
