//! What this server does with what comes in from its peers.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_proto::{
    peer::v1::{self as peer, propose_refusal},
    storage::v1::Transaction,
};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use openraft::async_runtime::watch::WatchReceiver;
use prost::Message;
use tokio::time::Instant;

use crate::{
    Replica,
    peer::{Answer, Answers, Call, Host, Introduction, PeerError, Refusal, Requests},
    raft::{membership_to_storage, server_id_to_storage, vote_to_storage},
    snapshot, translate,
};

/// How long a forwarded transaction or a report may be waited for.
const MAX_WAIT: Duration = Duration::from_secs(300);

impl Replica {
    /// What hears this server's peers. Usable as soon as the replica is started.
    pub fn host(&self) -> Arc<dyn Host> {
        Arc::new(self.clone())
    }

    fn check_caller(&self, introduction: &Introduction, call: Option<&Call>) -> Result<(), PeerError> {
        let inner = self.inner();
        let needs_history = !matches!(call, Some(Call::Describe(_)));
        inner.cell.check(introduction, needs_history, inner.log.last().is_none())?;
        if !needs_history {
            return Ok(());
        }
        if inner.upkeep.is_stopped() {
            return Err(not_serving("the server is stopping"));
        }
        // Raft has stopped then, and would say so of every message, and in the log.
        self.failure().map_or(Ok(()), |reason| Err(not_serving(format!("its log failed: {reason}"))))
    }

    async fn answer(&self, call: Call) -> Result<Answer, PeerError> {
        let inner = self.inner();
        match call {
            Call::Vote(request) => {
                let (asked, pre_vote) = (translate::vote_request_from_peer(&request)?, request.pre_vote);
                let voted = match pre_vote {
                    true => inner.raft.pre_vote(asked).await,
                    false => inner.raft.vote(asked).await,
                };
                Ok(Answer::Vote(translate::voted_to_peer(&voted.map_err(not_serving)?)))
            }
            Call::TransferLeader(request) => {
                let request = translate::transfer_from_peer(&request)?;
                let handled = inner.raft.handle_transfer_leader(request).await.map_err(not_serving)?;
                let refusal = handled.err().map(|error| error.to_string()).unwrap_or_default();
                Ok(Answer::TransferLeader(peer::TransferLeaderResponse { refusal }))
            }
            Call::Propose(request) => {
                let outcomes = request.transactions.into_iter().map(|proposed| self.propose_for_peer(proposed));
                let outcomes = futures::future::join_all(outcomes).await;
                Ok(Answer::Propose(peer::ProposeResponse { outcomes }))
            }
            Call::ReadIndex(_) => {
                let index = match inner.leadership.leads() {
                    true => inner.read_index.as_leader().await,
                    false => None,
                };
                let read_log_id = index.map(|index| flotilla_proto::storage::v1::LogId { index, ..Default::default() });
                Ok(Answer::ReadIndex(peer::ReadIndexResponse { read_log_id }))
            }
            Call::Describe(_) => Ok(Answer::Describe(Box::new(self.describe()))),
            Call::Change(request) => Ok(Answer::Change(inner.members.answer_peer(request).await)),
            Call::GetCheckReport(request) => {
                let deadline = Instant::now() + Duration::from_micros(request.timeout_micros).min(MAX_WAIT);
                Ok(Answer::GetCheckReport(match inner.derived.checks.wait(&request.id, deadline).await {
                    Some(Ok(report)) => report.to_peer(),
                    Some(Err(error)) => failed_report(error.to_string()),
                    None => failed_report("it didn't come to the check in time".to_owned()),
                }))
            }
        }
    }

    /// Takes a transaction of another server into the log, if this server leads.
    async fn propose_for_peer(&self, proposed: peer::ProposedTransaction) -> peer::Proposed {
        let deadline = Instant::now() + Duration::from_micros(proposed.timeout_micros).min(MAX_WAIT);
        if !proposed.check_id.is_empty() {
            return translate::proposed_to_peer(self.submit_check(proposed.check_id).await);
        }
        let Ok(transaction) = Transaction::decode(proposed.transaction.clone()) else {
            return refusal(propose_refusal::Kind::Invalid, "the transaction can't be decoded");
        };
        if let Err(error) = flotilla_store::transaction::check(&transaction) {
            return refusal(propose_refusal::Kind::Invalid, &error.to_string());
        }
        // The message may have been long under way in pieces of its own.
        let encoded = Bytes::copy_from_slice(&proposed.transaction);
        let operations = transaction.operations.len();
        translate::proposed_to_peer(self.submit_as_leader(encoded, operations, deadline, None).await)
    }

    /// How this server sees itself.
    pub(crate) fn describe(&self) -> peer::DescribeResponse {
        let inner = self.inner();
        let (status, membership) = (self.status(), inner.members.membership());
        let lag = inner.cell.lag(status.applied_index);
        let lag_micros = match inner.leadership.leads() {
            true => Some(0),
            false => lag.map(|lag| u64::try_from(lag.as_micros()).unwrap_or(u64::MAX)),
        };
        peer::DescribeResponse {
            id: Some(server_id_to_storage(inner.cell.id)),
            cell: inner.cell.name.clone(),
            history: inner.cell.history().to_string(),
            formed: inner.log.last().is_some(),
            voters: inner.cell.voters,
            address: inner.cell.address.clone(),
            services: inner.cell.about.services.clone(),
            version: inner.cell.about.version.clone(),
            start_time: inner.cell.start_time,
            state: self.state() as u32,
            leader: inner.leadership.current().map(|leader| server_id_to_storage(leader.id)),
            term: status.term,
            last_log_index: status.last_log_index,
            applied_index: status.applied_index,
            applied_revision: status.revision,
            lag_micros,
            membership: Some(membership_to_storage(membership.log_id().as_ref(), membership.membership())),
            entry_format: inner.options.entry_format,
            disk_full: inner.upkeep.full_disk().is_some(),
        }
    }
}

impl Host for Replica {
    fn call(&self, introduction: Introduction, call: Call) -> BoxFuture<'static, Result<Answer, PeerError>> {
        let replica = self.clone();
        async move {
            replica.check_caller(&introduction, Some(&call))?;
            replica.answer(call).await
        }
        .boxed()
    }

    fn append(
        &self,
        introduction: Introduction,
        requests: Requests<peer::AppendRequest>,
    ) -> BoxFuture<'static, Result<Answers<peer::AppendResponse>, PeerError>> {
        let replica = self.clone();
        async move {
            replica.check_caller(&introduction, None)?;
            let (refused, refusal) = tokio::sync::oneshot::channel();
            let mut refused = Some(refused);
            let host = replica.clone();
            // The stream of requests ends at one that can't be taken; the answers end with why.
            let requests = requests.map(move |request| host.take_append(request)).scan((), move |(), request| {
                let taken = match request {
                    Ok(request) => Some(request),
                    Err(error) => {
                        if let Some(refused) = refused.take() {
                            let _ = refused.send(error);
                        }
                        None
                    }
                };
                std::future::ready(taken)
            });
            let answers = replica.inner().raft.stream_append(requests.boxed());
            let answers = answers.map(|answer| match answer {
                Ok(result) => Ok(translate::appended_to_peer(&result)),
                Err(fatal) => Err(not_serving(fatal)),
            });
            let end = futures::stream::once(refusal).filter_map(|refusal| std::future::ready(refusal.ok().map(Err)));
            Ok(answers.chain(end).boxed())
        }
        .boxed()
    }

    fn install_snapshot(
        &self,
        introduction: Introduction,
        requests: Requests<peer::InstallSnapshotRequest>,
    ) -> BoxFuture<'static, Result<Answers<peer::InstallSnapshotResponse>, PeerError>> {
        let replica = self.clone();
        async move {
            replica.check_caller(&introduction, None)?;
            let place = replica.inner().installing.clone().try_acquire_owned();
            let place = place.map_err(|_| not_serving("another snapshot is coming in"))?;
            let (answers, answered) = tokio::sync::mpsc::channel(2);
            tokio::spawn(async move {
                let message = |part| Ok(peer::InstallSnapshotResponse { part: Some(part) });
                let begin = async |offset| {
                    answers.send(message(peer::install_snapshot_response::Part::Offset(offset))).await.is_ok()
                };
                let received = snapshot::receive(&replica.inner().snapshots, requests, begin).await;
                let installed = match received {
                    Ok((vote, snapshot)) => {
                        let installed = replica.inner().raft.install_full_snapshot(vote, snapshot).await;
                        installed.map_err(not_serving)
                    }
                    Err(error) => Err(error),
                };
                drop(place);
                let answer = match installed {
                    Ok(response) => {
                        message(peer::install_snapshot_response::Part::Vote(vote_to_storage(&response.vote)))
                    }
                    Err(error) => {
                        tracing::warn!(%error, from = %introduction.from, "a peer's snapshot was not taken in");
                        Err(error)
                    }
                };
                // The sender may be gone.
                let _ = answers.send(answer).await;
            });
            let answers = futures::stream::unfold(answered, |mut answered| async {
                answered.recv().await.map(|answer| (answer, answered))
            });
            Ok(answers.boxed())
        }
        .boxed()
    }
}

impl Replica {
    /// Reads a request to append, unless there is no room for it.
    fn take_append(
        &self,
        request: peer::AppendRequest,
    ) -> Result<openraft::raft::AppendEntriesRequest<crate::raft::TypeConfig>, PeerError> {
        let inner = self.inner();
        if !request.entries.is_empty()
            && let Some((free, required)) = inner.upkeep.full_disk()
        {
            return Err(not_serving(format!("{free} bytes are free where its data is, and {required} must be")));
        }
        let request = translate::append_from_peer(request)?;
        // A leader that was replaced doesn't know what was committed since.
        if request.vote >= inner.raft.server_metrics().borrow_watched().vote {
            let committed = request.leader_commit.as_ref().map_or(0, |log_id| log_id.index);
            inner.cell.heard(committed, *inner.derived.applied_index.borrow());
        }
        Ok(request)
    }
}

fn not_serving(why: impl std::fmt::Display) -> PeerError {
    PeerError::Refused { refusal: Refusal::NotServing, message: why.to_string() }
}

fn refusal(kind: propose_refusal::Kind, message: &str) -> peer::Proposed {
    let refusal = peer::ProposeRefusal { kind: kind.into(), message: message.to_owned(), ..Default::default() };
    peer::Proposed { outcome: Some(peer::proposed::Outcome::Refusal(refusal)) }
}

fn failed_report(failure: String) -> peer::GetCheckReportResponse {
    peer::GetCheckReportResponse { failure, ..Default::default() }
}
