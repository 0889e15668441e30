//! Messages between peers, from openraft's types to those that travel, and back.

use flotilla_proto::peer::v1 as peer;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest, VoteRequest, VoteResponse,
};

use crate::{
    Committed, ProposeError,
    peer::{PeerError, Refusal},
    raft::{
        LogId, TypeConfig, Vote, entry_from_storage, entry_to_storage, log_id_from_storage, log_id_to_storage,
        server_id_from_storage, server_id_to_storage, vote_from_storage, vote_to_storage,
    },
};

/// Why a message that can't be read is refused.
pub(crate) fn malformed(what: &str) -> PeerError {
    PeerError::Refused { refusal: Refusal::Malformed, message: format!("a peer's message makes no sense: {what}") }
}

fn stored(log_id: Option<&LogId>) -> Option<flotilla_proto::storage::v1::LogId> {
    log_id.map(log_id_to_storage)
}

fn known(log_id: Option<&flotilla_proto::storage::v1::LogId>) -> Option<LogId> {
    log_id.map(log_id_from_storage)
}

pub(crate) fn append_to_peer(request: AppendEntriesRequest<TypeConfig>) -> peer::AppendRequest {
    peer::AppendRequest {
        vote: Some(vote_to_storage(&request.vote)),
        previous: stored(request.prev_log_id.as_ref()),
        entries: request.entries.iter().map(entry_to_storage).collect(),
        leader_commit: stored(request.leader_commit.as_ref()),
    }
}

pub(crate) fn append_from_peer(request: peer::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, PeerError> {
    let entries: Option<Vec<_>> = request.entries.into_iter().map(entry_from_storage).collect();
    Ok(AppendEntriesRequest {
        vote: vote(request.vote.as_ref())?,
        prev_log_id: known(request.previous.as_ref()),
        entries: entries.ok_or_else(|| malformed("an entry is incomplete"))?,
        leader_commit: known(request.leader_commit.as_ref()),
    })
}

pub(crate) fn appended_to_peer(result: &StreamAppendResult<TypeConfig>) -> peer::AppendResponse {
    use peer::append_response::Result as Answer;
    let answer = match result {
        Ok(last) => Answer::Matched(peer::Matched { last: stored(last.as_ref()) }),
        Err(StreamAppendError::Conflict(log_id)) => Answer::Conflict(log_id_to_storage(log_id)),
        Err(StreamAppendError::HigherVote(vote)) => Answer::HigherVote(vote_to_storage(vote)),
    };
    peer::AppendResponse { result: Some(answer) }
}

pub(crate) fn appended_from_peer(response: &peer::AppendResponse) -> Result<StreamAppendResult<TypeConfig>, PeerError> {
    use peer::append_response::Result as Answer;
    match &response.result {
        Some(Answer::Matched(matched)) => Ok(Ok(known(matched.last.as_ref()))),
        Some(Answer::Conflict(log_id)) => Ok(Err(StreamAppendError::Conflict(log_id_from_storage(log_id)))),
        Some(Answer::HigherVote(vote)) => Ok(Err(StreamAppendError::HigherVote(vote_from_storage(vote)))),
        None => Err(malformed("an answer to an append is empty")),
    }
}

pub(crate) fn vote_request_to_peer(request: &VoteRequest<TypeConfig>, pre_vote: bool) -> peer::VoteRequest {
    peer::VoteRequest {
        vote: Some(vote_to_storage(&request.vote)),
        last: stored(request.last_log_id.as_ref()),
        leadership_transfer: request.leadership_transfer,
        pre_vote,
    }
}

pub(crate) fn vote_request_from_peer(request: &peer::VoteRequest) -> Result<VoteRequest<TypeConfig>, PeerError> {
    let mut asked = VoteRequest::new(vote(request.vote.as_ref())?, known(request.last.as_ref()));
    asked.leadership_transfer = request.leadership_transfer;
    Ok(asked)
}

pub(crate) fn voted_to_peer(response: &VoteResponse<TypeConfig>) -> peer::VoteResponse {
    peer::VoteResponse {
        vote: Some(vote_to_storage(&response.vote)),
        granted: response.vote_granted,
        last: stored(response.last_log_id.as_ref()),
    }
}

pub(crate) fn voted_from_peer(response: &peer::VoteResponse) -> Result<VoteResponse<TypeConfig>, PeerError> {
    Ok(VoteResponse::new(vote(response.vote.as_ref())?, known(response.last.as_ref()), response.granted))
}

pub(crate) fn transfer_to_peer(request: &TransferLeaderRequest<TypeConfig>) -> peer::TransferLeaderRequest {
    peer::TransferLeaderRequest {
        from: Some(vote_to_storage(request.from_leader())),
        to: Some(server_id_to_storage(*request.to_node_id())),
        last: stored(request.last_log_id()),
    }
}

pub(crate) fn transfer_from_peer(
    request: &peer::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<TypeConfig>, PeerError> {
    let to = server_id_from_storage(request.to);
    Ok(TransferLeaderRequest::new(vote(request.from.as_ref())?, to, known(request.last.as_ref())))
}

pub(crate) fn vote(stored: Option<&flotilla_proto::storage::v1::Vote>) -> Result<Vote, PeerError> {
    stored.map(vote_from_storage).ok_or_else(|| malformed("a vote is missing"))
}

pub(crate) fn committed_to_peer(committed: Committed) -> peer::Committed {
    let Committed { revision, time, results, answer, replayed } = committed;
    peer::Committed { revision, time, results, answer, replayed }
}

pub(crate) fn committed_from_peer(committed: peer::Committed) -> Committed {
    let peer::Committed { revision, time, results, answer, replayed } = committed;
    Committed { revision, time, results, answer, replayed }
}

/// What the leader says of a transaction.
pub(crate) fn proposed_to_peer(result: Result<Committed, ProposeError>) -> peer::Proposed {
    use peer::{propose_refusal::Kind, proposed::Outcome as Answer};
    let refusal = |kind: Kind, error: &ProposeError, amount, required| {
        Answer::Refusal(peer::ProposeRefusal { kind: kind.into(), amount, required, message: error.to_string() })
    };
    let outcome = match &result {
        Ok(_) => None,
        Err(ProposeError::Conflict { condition }) => {
            Some(Answer::Conflict(u32::try_from(*condition).unwrap_or(u32::MAX)))
        }
        Err(error) => Some(match error {
            ProposeError::Overloaded { waiting } => refusal(Kind::Overloaded, error, *waiting as u64, 0),
            ProposeError::DiskFull { free, required } => refusal(Kind::DiskFull, error, *free, *required),
            ProposeError::RequestIdReused => refusal(Kind::RequestIdReused, error, 0, 0),
            ProposeError::Invalid(_) => refusal(Kind::Invalid, error, 0, 0),
            ProposeError::NoLeader => refusal(Kind::NotLeader, error, 0, 0),
            ProposeError::LeaderLost => refusal(Kind::LeaderLost, error, 0, 0),
            ProposeError::DeadlineExpired { submitted: false } => refusal(Kind::Expired, error, 0, 0),
            ProposeError::DeadlineExpired { submitted: true } => refusal(Kind::ExpiredSubmitted, error, 0, 0),
            _ => refusal(Kind::Stopped, error, 0, 0),
        }),
    };
    let outcome = match (outcome, result) {
        (Some(outcome), _) => outcome,
        (None, Ok(committed)) => Answer::Committed(committed_to_peer(committed)),
        (None, Err(error)) => refusal(Kind::Stopped, &error, 0, 0),
    };
    peer::Proposed { outcome: Some(outcome) }
}

/// The same, as the forwarding server understands it.
pub(crate) fn proposed_from_peer(proposed: peer::Proposed) -> Result<Committed, ProposeError> {
    use peer::{propose_refusal::Kind, proposed::Outcome as Answer};
    let refusal = match proposed.outcome {
        Some(Answer::Committed(committed)) => return Ok(committed_from_peer(committed)),
        Some(Answer::Conflict(condition)) => return Err(ProposeError::Conflict { condition: condition as usize }),
        Some(Answer::Refusal(refusal)) => refusal,
        None => return Err(ProposeError::LeaderLost),
    };
    Err(match refusal.kind() {
        Kind::NotLeader => ProposeError::NoLeader,
        Kind::Expired => ProposeError::DeadlineExpired { submitted: false },
        Kind::ExpiredSubmitted => ProposeError::DeadlineExpired { submitted: true },
        Kind::Overloaded => ProposeError::Overloaded { waiting: refusal.amount as usize },
        Kind::DiskFull => ProposeError::DiskFull { free: refusal.amount, required: refusal.required },
        Kind::RequestIdReused => ProposeError::RequestIdReused,
        Kind::Invalid | Kind::Unspecified => ProposeError::Refused { reason: refusal.message },
        Kind::LeaderLost | Kind::Stopped => ProposeError::LeaderLost,
    })
}
