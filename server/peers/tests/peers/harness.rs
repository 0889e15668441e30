//! A host that remembers, a server around it, and a wire that can be cut.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use flotilla_peers::{Metrics, PeerNetwork, PeerServer, Secret};
use flotilla_proto::peer::v1 as peer;
use flotilla_replica::peer::{
    Answer, Answers, Call, Host, Introduction, Network, PROTOCOL, PeerError, Requests, ServerId,
};
use futures::{StreamExt, future::BoxFuture};
use prometheus_client::registry::Registry;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::JoinHandle,
};
use tonic::transport::server::TcpIncoming;

/// Long enough for a busy machine; only a failing test waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

type Reply = Box<dyn Fn(Call) -> Result<Answer, PeerError> + Send + Sync>;

/// Answers as a test says, and remembers who called with what.
#[derive(Default)]
pub(crate) struct FakeHost {
    pub(crate) calls: Mutex<Vec<(Introduction, Call)>>,
    pub(crate) streams: Mutex<Vec<Introduction>>,
    pub(crate) appends: watch::Sender<Vec<peer::AppendRequest>>,
    /// What calls are answered; none: they hang.
    pub(crate) reply: OnceLock<Reply>,
    /// Appends are answered after this.
    pub(crate) release: Arc<Notify>,
    pub(crate) held: bool,
}

impl Host for FakeHost {
    fn call(&self, introduction: Introduction, call: Call) -> BoxFuture<'static, Result<Answer, PeerError>> {
        self.calls.lock().unwrap().push((introduction, call.clone()));
        match self.reply.get() {
            Some(reply) => Box::pin(std::future::ready(reply(call))),
            None => Box::pin(std::future::pending()),
        }
    }

    fn append(
        &self,
        introduction: Introduction,
        mut requests: Requests<peer::AppendRequest>,
    ) -> BoxFuture<'static, Result<Answers<peer::AppendResponse>, PeerError>> {
        self.streams.lock().unwrap().push(introduction);
        let (appends, release, held) = (self.appends.clone(), self.release.clone(), self.held);
        let (answer, answers) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                let index = request.leader_commit.as_ref().map_or(0, |id| id.index);
                appends.send_modify(|all| all.push(request));
                answer.send(index).await.unwrap_or_default();
            }
        });
        let answers = futures::stream::unfold((answers, release, held), |(mut answers, release, held)| async move {
            if held {
                release.notified().await;
            }
            let index = answers.recv().await?;
            Some((Ok(appended(index)), (answers, release, false)))
        });
        Box::pin(std::future::ready(Ok(answers.boxed())))
    }

    fn install_snapshot(
        &self,
        introduction: Introduction,
        requests: Requests<peer::InstallSnapshotRequest>,
    ) -> BoxFuture<'static, Result<Answers<peer::InstallSnapshotResponse>, PeerError>> {
        self.streams.lock().unwrap().push(introduction);
        // Says how many bytes came.
        let total = requests.fold(0, |total, request| async move {
            match request.part {
                Some(peer::install_snapshot_request::Part::Chunk(chunk)) => total + chunk.len() as u64,
                _ => total,
            }
        });
        let answer = |total| {
            let part = Some(peer::install_snapshot_response::Part::Offset(total));
            Ok(peer::InstallSnapshotResponse { part })
        };
        let answers = futures::stream::once(async move { answer(total.await) });
        Box::pin(std::future::ready(Ok(answers.boxed())))
    }
}

/// A host that gives every call the answer of its kind.
pub(crate) fn agreeable() -> Arc<FakeHost> {
    replying(|call| Ok(answer_to(&call)))
}

pub(crate) fn replying(reply: impl Fn(Call) -> Result<Answer, PeerError> + Send + Sync + 'static) -> Arc<FakeHost> {
    let host = FakeHost::default();
    let _ = host.reply.set(Box::new(reply));
    Arc::new(host)
}

/// A host that answers calls, and no append before it is told to.
pub(crate) fn holding() -> Arc<FakeHost> {
    let host = FakeHost { held: true, ..FakeHost::default() };
    let _ = host.reply.set(Box::new(|call| Ok(answer_to(&call))));
    Arc::new(host)
}

/// An answer with something in it.
pub(crate) fn answer_to(call: &Call) -> Answer {
    match call {
        Call::Vote(_) => Answer::Vote(peer::VoteResponse { granted: true, ..Default::default() }),
        Call::TransferLeader(_) => Answer::TransferLeader(peer::TransferLeaderResponse { refusal: "no".into() }),
        Call::Propose(_) => {
            let outcome = Some(peer::proposed::Outcome::Conflict(7));
            Answer::Propose(peer::ProposeResponse { outcomes: vec![peer::Proposed { outcome }] })
        }
        Call::ReadIndex(_) => Answer::ReadIndex(peer::ReadIndexResponse { read_log_id: Some(log_id(5)) }),
        Call::Describe(_) => {
            Answer::Describe(Box::new(peer::DescribeResponse { cell: "cell".into(), ..Default::default() }))
        }
        Call::Change(_) => {
            let changed = peer::Changed { term: 3, id: None };
            Answer::Change(peer::ChangeResponse { result: Some(peer::change_response::Result::Changed(changed)) })
        }
        Call::GetCheckReport(_) => {
            Answer::GetCheckReport(peer::GetCheckReportResponse { revision: 9, ..Default::default() })
        }
    }
}

pub(crate) fn log_id(index: u64) -> flotilla_proto::storage::v1::LogId {
    flotilla_proto::storage::v1::LogId { index, ..Default::default() }
}

pub(crate) fn append(index: u64) -> peer::AppendRequest {
    peer::AppendRequest { leader_commit: Some(log_id(index)), ..Default::default() }
}

pub(crate) fn appended(index: u64) -> peer::AppendResponse {
    let matched = peer::Matched { last: Some(log_id(index)) };
    peer::AppendResponse { result: Some(peer::append_response::Result::Matched(matched)) }
}

pub(crate) fn introduction() -> Introduction {
    Introduction {
        cell: "Zelle eins".into(),
        history: "01HISTORY".into(),
        from: ServerId { server: 1, incarnation: 11 },
        to: Some(ServerId { server: 2, incarnation: 22 }),
        protocol: PROTOCOL,
    }
}

/// A server that listens on a port of its own until it is dropped.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Metrics,
    serving: JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Peer {
    pub(crate) async fn start(host: Arc<FakeHost>, secret: Option<Secret>) -> Self {
        let slot: Arc<OnceLock<Arc<dyn Host>>> = Arc::default();
        let _ = slot.set(host);
        Self::on(TcpListener::bind(free()).await.unwrap(), slot, secret)
    }

    pub(crate) fn on(listener: TcpListener, host: Arc<OnceLock<Arc<dyn Host>>>, secret: Option<Secret>) -> Self {
        let metrics = Metrics::default();
        let server = PeerServer::new(host, secret, metrics.clone());
        let address = listener.local_addr().unwrap();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let serving = tonic::transport::Server::builder().add_service(server).serve_with_incoming(incoming);
        let serving = tokio::spawn(async move { serving.await.unwrap() });
        Self { address, metrics, serving }
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        vec![self.address.to_string()]
    }

    /// How many were refused for a reason.
    pub(crate) fn refused(&self, reason: &str) -> u64 {
        let mut registry = Registry::default();
        self.metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = format!("flotilla_peer_refused_total{{reason=\"{reason}\"}} ");
        text.lines().find_map(|text| text.strip_prefix(&line)).unwrap().parse().unwrap()
    }
}

/// Any port.
pub(crate) fn free() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// A wire to an address; cut or stopped when a test says so.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Whole,
    Silent,
    Cut,
}

impl Wire {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(free()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, seen) = watch::channel(State::Whole);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, target, seen.clone()));
            }
        });
        Self { address, state }
    }

    /// Ends every connection.
    pub(crate) fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Carries nothing any more, and ends nothing.
    pub(crate) fn silence(&self) {
        self.state.send_replace(State::Silent);
    }
}

async fn carry(mut near: TcpStream, target: SocketAddr, mut state: watch::Receiver<State>) {
    let mut far = TcpStream::connect(target).await.unwrap();
    let silent = async { state.wait_for(|state| *state != State::Whole).await.is_ok_and(|it| *it == State::Silent) };
    let silent = tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => false,
        silent = silent => silent,
    };
    if silent {
        std::future::pending::<()>().await;
    }
}

pub(crate) fn network() -> PeerNetwork {
    PeerNetwork::new(None)
}

pub(crate) async fn read_index(network: &PeerNetwork, addresses: &[String]) -> Result<Answer, PeerError> {
    network.call(addresses, introduction(), Call::ReadIndex(peer::ReadIndexRequest {}), PATIENCE).await
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let poll = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, poll).await.unwrap_or_else(|_| panic!("{what}"));
}

/// A secret file with these permissions.
pub(crate) fn secret_file(directory: &tempfile::TempDir, content: &[u8], mode: u32) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;

    let path = directory.path().join("secret");
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

pub(crate) fn secret(text: &str) -> Secret {
    let directory = tempfile::tempdir().unwrap();
    Secret::read(&secret_file(&directory, text.as_bytes(), 0o600)).unwrap()
}
