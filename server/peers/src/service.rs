//! The methods of `flotilla.peer.v1.PeerService`: each hands over to the host.

use std::sync::{Arc, OnceLock};

use flotilla_proto::peer::v1::{self as peer, peer_service_server::PeerService};
use flotilla_replica::peer::{Answer, Answers, Call, Host, PeerError, Refusal};
use futures::{StreamExt, stream::BoxStream};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    faults::{self, Fault},
    refusals::{self, Refused},
    server::Caller,
    tally::Tally,
};

/// Answers of a stream, as they travel.
type Statuses<T> = BoxStream<'static, Result<T, Status>>;

/// Hands over to the host, once there is one.
pub(crate) struct PeerHandlers {
    host: Arc<OnceLock<Arc<dyn Host>>>,
    tally: Arc<Tally>,
}

impl PeerHandlers {
    pub(crate) fn new(host: Arc<OnceLock<Arc<dyn Host>>>, tally: Arc<Tally>) -> Self {
        Self { host, tally }
    }

    fn host(&self) -> Result<&Arc<dyn Host>, PeerError> {
        self.host.get().ok_or_else(|| Refused::new(Refusal::NotServing, "the server is starting").into())
    }

    async fn answer<T, R>(
        &self,
        request: Request<T>,
        call: fn(T) -> Call,
        expected: fn(Answer) -> Option<R>,
    ) -> Result<Response<R>, Status> {
        let (caller, message) = introduced(request)?;
        let answer = async { self.host()?.call(caller.introduction.clone(), call(message)).await };
        let answer = answer.await.map_err(|error| told(&self.tally, &caller, error))?;
        expected(answer)
            .map(Response::new)
            .ok_or_else(|| refusals::failure(&PeerError::Broken("the answer is of another kind than the call".into())))
    }

    /// The host's answers, with the fault that ended its requests.
    fn answers<T: Send + 'static>(&self, caller: Caller, answers: Answers<T>, fault: Fault) -> Statuses<T> {
        let tally = self.tally.clone();
        let answers = faults::answers(answers, fault);
        answers.map(move |answer| answer.map_err(|error| told(&tally, &caller, error))).boxed()
    }
}

/// Who calls; the server has put it there.
fn introduced<T>(request: Request<T>) -> Result<(Caller, T), Status> {
    let (_, mut extensions, message) = request.into_parts();
    let caller = extensions.remove::<Caller>();
    let missing = || Refused::new(Refusal::Malformed, "the caller wasn't introduced").status();
    Ok((caller.ok_or_else(missing)?, message))
}

/// What a caller is told; counted if it is refused.
fn told(tally: &Tally, caller: &Caller, error: PeerError) -> Status {
    match error {
        PeerError::Refused { refusal, message } => {
            let refused = Refused::new(refusal, message);
            tally.refuse(&refused, caller.remote, Some(&caller.introduction));
            refused.status()
        }
        other => refusals::failure(&other),
    }
}

#[tonic::async_trait]
impl PeerService for PeerHandlers {
    type AppendStream = Statuses<peer::AppendResponse>;
    type InstallSnapshotStream = Statuses<peer::InstallSnapshotResponse>;

    async fn append(
        &self,
        request: Request<Streaming<peer::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let (caller, requests) = introduced(request)?;
        let fault = Fault::default();
        let requests = faults::incoming(requests, fault.clone());
        let answers = async { self.host()?.append(caller.introduction.clone(), requests).await };
        let answers = answers.await.map_err(|error| told(&self.tally, &caller, error))?;
        Ok(Response::new(self.answers(caller, answers, fault)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<peer::InstallSnapshotRequest>>,
    ) -> Result<Response<Self::InstallSnapshotStream>, Status> {
        let (caller, requests) = introduced(request)?;
        let fault = Fault::default();
        let requests = faults::incoming(requests, fault.clone());
        let answers = async { self.host()?.install_snapshot(caller.introduction.clone(), requests).await };
        let answers = answers.await.map_err(|error| told(&self.tally, &caller, error))?;
        Ok(Response::new(self.answers(caller, answers, fault)))
    }

    async fn vote(&self, request: Request<peer::VoteRequest>) -> Result<Response<peer::VoteResponse>, Status> {
        let expected = |answer| if let Answer::Vote(answer) = answer { Some(answer) } else { None };
        self.answer(request, Call::Vote, expected).await
    }

    async fn transfer_leader(
        &self,
        request: Request<peer::TransferLeaderRequest>,
    ) -> Result<Response<peer::TransferLeaderResponse>, Status> {
        let expected = |answer| if let Answer::TransferLeader(answer) = answer { Some(answer) } else { None };
        self.answer(request, Call::TransferLeader, expected).await
    }

    async fn propose(&self, request: Request<peer::ProposeRequest>) -> Result<Response<peer::ProposeResponse>, Status> {
        let expected = |answer| if let Answer::Propose(answer) = answer { Some(answer) } else { None };
        self.answer(request, Call::Propose, expected).await
    }

    async fn read_index(
        &self,
        request: Request<peer::ReadIndexRequest>,
    ) -> Result<Response<peer::ReadIndexResponse>, Status> {
        let expected = |answer| if let Answer::ReadIndex(answer) = answer { Some(answer) } else { None };
        self.answer(request, Call::ReadIndex, expected).await
    }

    async fn describe(
        &self,
        request: Request<peer::DescribeRequest>,
    ) -> Result<Response<peer::DescribeResponse>, Status> {
        let expected = |answer| if let Answer::Describe(answer) = answer { Some(*answer) } else { None };
        self.answer(request, Call::Describe, expected).await
    }

    async fn change(&self, request: Request<peer::ChangeRequest>) -> Result<Response<peer::ChangeResponse>, Status> {
        let expected = |answer| if let Answer::Change(answer) = answer { Some(answer) } else { None };
        self.answer(request, Call::Change, expected).await
    }

    async fn get_check_report(
        &self,
        request: Request<peer::GetCheckReportRequest>,
    ) -> Result<Response<peer::GetCheckReportResponse>, Status> {
        let expected = |answer| if let Answer::GetCheckReport(answer) = answer { Some(answer) } else { None };
        self.answer(request, Call::GetCheckReport, expected).await
    }
}
