//! openraft's view of the other servers: what it wants to tell them, over the seam of
//! [`crate::peer`].

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use flotilla_proto::peer::v1 as peer;
use futures::{Stream, StreamExt, future::BoxFuture, stream::BoxStream};
use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    alias::{SnapshotOf, VoteOf},
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};

use crate::{
    cell::Cell,
    peer::{Answer, Call, PeerError},
    raft::{Server, ServerId, TypeConfig},
    snapshot::{SnapshotFile, send_snapshot},
    translate,
};

/// How long a follower may take to put entries on its disk before it is taken for gone. Connections
/// notice a dead peer far sooner.
const APPEND_PATIENCE: Duration = Duration::from_secs(30);

/// The pause before a peer that can't be reached is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Makes connections to peers.
pub(crate) struct Peers {
    pub(crate) cell: Arc<Cell>,
}

/// What openraft says to one peer.
pub(crate) struct Peer {
    cell: Arc<Cell>,
    target: ServerId,
    server: Server,
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: ServerId, server: &Server) -> Peer {
        Peer { cell: self.cell.clone(), target, server: server.clone() }
    }
}

impl Peer {
    fn addresses(&self) -> Vec<String> {
        self.cell.addresses(self.target.server, &self.server)
    }

    async fn call(&self, call: Call, timeout: Duration) -> Result<Answer, PeerError> {
        let introduction = self.cell.introduction(Some(self.target));
        self.cell.network.call(&self.addresses(), introduction, call, timeout).await
    }

    async fn ask_for_vote(
        &self,
        request: VoteRequest<TypeConfig>,
        pre_vote: bool,
        option: &RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let call = Call::Vote(translate::vote_request_to_peer(&request, pre_vote));
        match self.call(call, option.hard_ttl()).await.map_err(rpc_error)? {
            Answer::Vote(response) => translate::voted_from_peer(&response).map_err(rpc_error),
            _ => Err(rpc_error(translate::malformed("another answer than a vote"))),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let timeout = option.hard_ttl();
        let request = futures::stream::once(std::future::ready(request)).boxed();
        let answer = async {
            let mut answers = self.stream_append(request, option).await?;
            answers.next().await.unwrap_or_else(|| Err(rpc_error(PeerError::Broken("no answer came".into()))))
        };
        let answer = tokio::time::timeout(timeout, answer).await;
        Ok(answer.map_err(|_| rpc_error(PeerError::TimedOut(timeout)))??.into())
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>, RPCError<TypeConfig>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            // openraft pauses between attempts within this stream: a peer that can't be reached must not
            // be tried without asking it for something to send.
            let Some(first) = input.next().await else { return Ok(futures::stream::empty().boxed()) };
            let outstanding = Arc::new(AtomicU64::new(0));
            let sent = outstanding.clone();
            let requests = futures::stream::once(std::future::ready(first)).chain(input).map(move |request| {
                sent.fetch_add(1, Ordering::AcqRel);
                translate::append_to_peer(request)
            });
            let introduction = self.cell.introduction(Some(self.target));
            let answers = self.cell.network.append(&self.addresses(), introduction, requests.boxed());
            let answers = answers.await.map_err(rpc_error)?;
            let answers = futures::stream::unfold(Some(answers), move |answers| {
                let outstanding = outstanding.clone();
                async move {
                    let mut answers = answers?;
                    let answer = next_answer(&mut answers, &outstanding).await?;
                    let result = answer.and_then(|answer| translate::appended_from_peer(&answer)).map_err(rpc_error);
                    let more = result.is_ok();
                    Some((result, more.then_some(answers)))
                }
            });
            Ok(answers.boxed())
        })
    }

    /// The same pause each time: a server that is back must be found at once.
    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(RETRY_PAUSE)))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_for_vote(request, false, &option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_for_vote(request, true, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let introduction = self.cell.introduction(Some(self.target));
        let (network, addresses) = (self.cell.network.clone(), self.addresses());
        tracing::info!(to = %self.target, name = %snapshot.snapshot.name(), "sending a snapshot to a peer that lacks log");
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = send_snapshot(network.as_ref(), &addresses, introduction, vote, &snapshot.snapshot) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => Err(match error {
                    PeerError::Broken(_) => StreamingError::Network(network_error(error)),
                    error => StreamingError::Unreachable(unreachable(error)),
                }),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let call = Call::TransferLeader(translate::transfer_to_peer(&request));
        match self.call(call, option.hard_ttl()).await.map_err(rpc_error)? {
            Answer::TransferLeader(response) if response.refusal.is_empty() => Ok(Ok(())),
            Answer::TransferLeader(response) => Err(rpc_error(PeerError::Broken(response.refusal))),
            _ => Err(rpc_error(translate::malformed("another answer than to a transfer"))),
        }
    }
}

/// The next answer of a follower; none at the end. Waiting is bounded while one is owed.
async fn next_answer(
    answers: &mut crate::peer::Answers<peer::AppendResponse>,
    outstanding: &AtomicU64,
) -> Option<Result<peer::AppendResponse, PeerError>> {
    loop {
        match tokio::time::timeout(APPEND_PATIENCE, answers.next()).await {
            Ok(answer) => {
                let _ = outstanding.fetch_update(Ordering::AcqRel, Ordering::Acquire, |owed| owed.checked_sub(1));
                return answer;
            }
            Err(_) if outstanding.load(Ordering::Acquire) > 0 => {
                return Some(Err(PeerError::TimedOut(APPEND_PATIENCE)));
            }
            Err(_) => {}
        }
    }
}

/// After a break openraft tries again at once; after anything else it waits a moment.
fn rpc_error(error: PeerError) -> RPCError<TypeConfig> {
    match error {
        PeerError::Broken(_) => RPCError::Network(network_error(error)),
        error => RPCError::Unreachable(unreachable(error)),
    }
}

fn unreachable(error: PeerError) -> Unreachable<TypeConfig> {
    Unreachable::new(&io::Error::other(error))
}

fn network_error(error: PeerError) -> NetworkError<TypeConfig> {
    NetworkError::new(&io::Error::other(error))
}
