//! The other servers of a cell, as the log reaches them and is reached by them.
//!
//! [`Network`] is the seam: `flotilla-peers` carries it over gRPC, a simulation over memory. What
//! comes in is handed to a [`Host`]. Messages are those of `flotilla.peer.v1`; nothing
//! here knows how they travel.

use std::{fmt, str::FromStr, time::Duration};

use flotilla_proto::peer::v1 as peer;
use futures::{future::BoxFuture, stream::BoxStream};

/// The protocol that this version speaks: a peer with another one is refused. Fields may be added
/// within a protocol; what a leader writes into the log depends on
/// [`peer::DescribeResponse::entry_format`] of all voters.
pub const PROTOCOL: u32 = 1;
/// Bytes of one message between peers; more are refused. An entry is one transaction of at most
/// 4 MiB or several of at most 1 MiB together.
pub const MAX_MESSAGE: usize = 8 * 1024 * 1024;
/// Bytes of one piece of a snapshot.
pub const SNAPSHOT_CHUNK: usize = 256 * 1024;

/// A server and its life: one whose directory was emptied is another one, so that it never votes
/// with promises that it forgot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId {
    /// The server's number in its cell, from 1 on.
    pub server: u64,
    /// Tells the lives of that number apart.
    pub incarnation: u64,
}

impl fmt::Display for ServerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.server, self.incarnation)
    }
}

impl FromStr for ServerId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (server, incarnation) = text.split_once('.').unwrap_or((text, ""));
        Ok(Self { server: server.parse()?, incarnation: incarnation.parse()? })
    }
}

/// Who speaks to whom: goes along with every call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// The sender's cell.
    pub cell: String,
    /// The sender's history; empty while its cell isn't formed.
    pub history: String,
    /// The sender.
    pub from: ServerId,
    /// Whom it means; none: whoever listens there.
    pub to: Option<ServerId>,
    /// [`PROTOCOL`] of the sender.
    pub protocol: u32,
}

/// A call with one answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    /// Asks for a vote.
    Vote(peer::VoteRequest),
    /// Announces that a leader hands over.
    TransferLeader(peer::TransferLeaderRequest),
    /// Forwards transactions.
    Propose(peer::ProposeRequest),
    /// Asks what a read must see.
    ReadIndex(peer::ReadIndexRequest),
    /// Asks who is there.
    Describe(peer::DescribeRequest),
    /// Asks for a change of the members.
    Change(peer::ChangeRequest),
    /// Asks what a check found.
    GetCheckReport(peer::GetCheckReportRequest),
}

/// The answer to a [`Call`], of the same kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// To [`Call::Vote`].
    Vote(peer::VoteResponse),
    /// To [`Call::TransferLeader`].
    TransferLeader(peer::TransferLeaderResponse),
    /// To [`Call::Propose`].
    Propose(peer::ProposeResponse),
    /// To [`Call::ReadIndex`].
    ReadIndex(peer::ReadIndexResponse),
    /// To [`Call::Describe`].
    Describe(Box<peer::DescribeResponse>),
    /// To [`Call::Change`].
    Change(peer::ChangeResponse),
    /// To [`Call::GetCheckReport`].
    GetCheckReport(peer::GetCheckReportResponse),
}

/// Why a peer gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PeerError {
    /// It certainly never got the call.
    #[error("the server can't be reached: {0}")]
    Unreachable(String),
    /// It may have got the call.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// No answer came in time; it may have got the call.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// It refused the caller, and did nothing.
    #[error("{message}")]
    Refused {
        /// Why.
        refusal: Refusal,
        /// For a person.
        message: String,
    },
}

/// Why a server doesn't listen to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The caller is of another cell.
    Cell,
    /// The caller is of another history of the same cell.
    History,
    /// The call is meant for another server, or another life of this one.
    Recipient,
    /// The caller speaks another protocol.
    Protocol,
    /// The caller showed no secret, or another one.
    Secret,
    /// The message makes no sense, or is too large.
    Malformed,
    /// The server is starting or stopping.
    NotServing,
}

/// A stream of what one peer sends to another.
pub type Requests<T> = BoxStream<'static, T>;
/// A stream of what comes back.
pub type Answers<T> = BoxStream<'static, Result<T, PeerError>>;

/// Carries calls to peers. Connections are kept, and made anew when they break, with the address
/// looked up again.
pub trait Network: Send + Sync + 'static {
    /// One call, answered within `timeout`. `addresses` are tried in their order, as "host:port".
    fn call(
        &self,
        addresses: &[String],
        introduction: Introduction,
        call: Call,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Answer, PeerError>>;

    /// A stream of appends; the answers come in the order of the requests. Ends when the requests do.
    fn append(
        &self,
        addresses: &[String],
        introduction: Introduction,
        requests: Requests<peer::AppendRequest>,
    ) -> BoxFuture<'static, Result<Answers<peer::AppendResponse>, PeerError>>;

    /// A transfer of a snapshot.
    fn install_snapshot(
        &self,
        addresses: &[String],
        introduction: Introduction,
        requests: Requests<peer::InstallSnapshotRequest>,
    ) -> BoxFuture<'static, Result<Answers<peer::InstallSnapshotResponse>, PeerError>>;
}

/// Hears what comes in from peers. Whoever carries calls has checked the secret; the rest of the
/// introduction is checked here.
pub trait Host: Send + Sync + 'static {
    /// Answers one call.
    fn call(&self, introduction: Introduction, call: Call) -> BoxFuture<'static, Result<Answer, PeerError>>;

    /// Answers a stream of appends. The answers end after an error, or when the requests do.
    fn append(
        &self,
        introduction: Introduction,
        requests: Requests<peer::AppendRequest>,
    ) -> BoxFuture<'static, Result<Answers<peer::AppendResponse>, PeerError>>;

    /// Takes a snapshot.
    fn install_snapshot(
        &self,
        introduction: Introduction,
        requests: Requests<peer::InstallSnapshotRequest>,
    ) -> BoxFuture<'static, Result<Answers<peer::InstallSnapshotResponse>, PeerError>>;
}

/// The network of a server that is alone.
#[derive(Debug, Clone, Copy)]
pub struct NoPeers;

impl NoPeers {
    fn unreachable<T: Send + 'static>() -> BoxFuture<'static, Result<T, PeerError>> {
        Box::pin(async { Err(PeerError::Unreachable("this server has no network to peers".into())) })
    }
}

impl Network for NoPeers {
    fn call(
        &self,
        _: &[String],
        _: Introduction,
        _: Call,
        _: Duration,
    ) -> BoxFuture<'static, Result<Answer, PeerError>> {
        Self::unreachable()
    }

    fn append(
        &self,
        _: &[String],
        _: Introduction,
        _: Requests<peer::AppendRequest>,
    ) -> BoxFuture<'static, Result<Answers<peer::AppendResponse>, PeerError>> {
        Self::unreachable()
    }

    fn install_snapshot(
        &self,
        _: &[String],
        _: Introduction,
        _: Requests<peer::InstallSnapshotRequest>,
    ) -> BoxFuture<'static, Result<Answers<peer::InstallSnapshotResponse>, PeerError>> {
        Self::unreachable()
    }
}
