//! Asking the leader for a change, from any server; and answering as the leader.

use std::time::Duration;

use flotilla_proto::peer::v1::{
    self as peer, change_refusal::Kind, change_request::Change, change_response::Result as Done,
};
use tokio::time::Instant;

use super::{ChangeError, Members};
use crate::{
    peer::{Answer, Call, PeerError},
    raft::{server_id_from_storage, server_id_to_storage},
};

/// The pause before the next leader is asked.
const PAUSE: Duration = Duration::from_millis(50);

impl Members {
    /// Has the leader make a change, whoever it is.
    pub(crate) async fn request(&self, change: Change, deadline: Instant) -> Result<peer::Changed, ChangeError> {
        loop {
            let leader = self.leadership.wait(deadline).await.ok_or(ChangeError::NoLeader)?;
            let outcome = match self.leadership.is_self(&leader) {
                true => self.answer(change.clone(), deadline).await,
                false => {
                    let addresses = self.cell.addresses(leader.id.server, &leader.server);
                    self.ask(&addresses, Some(leader.id), change.clone(), deadline).await
                }
            };
            match outcome {
                Err(ChangeError::NoLeader | ChangeError::Busy) if Instant::now() + PAUSE < deadline => {
                    self.leadership.wait_for_change(Some(&leader), Instant::now() + PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Asks one server to make a change, as the leader.
    pub(super) async fn ask(
        &self,
        addresses: &[String],
        to: Option<crate::peer::ServerId>,
        change: Change,
        deadline: Instant,
    ) -> Result<peer::Changed, ChangeError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout_micros = u64::try_from(left.as_micros()).unwrap_or(u64::MAX);
        let request = peer::ChangeRequest { change: Some(change), timeout_micros };
        let introduction = self.cell.introduction(to);
        let answer = self.cell.network.call(addresses, introduction, Call::Change(request), left).await;
        let response = match answer {
            Ok(Answer::Change(response)) => response,
            Ok(_) => return Err(ChangeError::Expired),
            Err(PeerError::Unreachable(_)) => return Err(ChangeError::NoLeader),
            Err(PeerError::Refused { message, .. }) => return Err(ChangeError::Unsuitable { message }),
            Err(PeerError::Broken(_) | PeerError::TimedOut(_)) => return Err(ChangeError::Expired),
        };
        let refusal = match response.result {
            Some(Done::Changed(changed)) => return Ok(changed),
            Some(Done::Refusal(refusal)) => refusal,
            None => return Err(ChangeError::Expired),
        };
        let server = refusal.server;
        let peer::ChangeRefusal { message, voters, reachable, .. } = refusal.clone();
        Err(match refusal.kind() {
            Kind::NotLeader | Kind::Unspecified => ChangeError::NoLeader,
            Kind::Exists => ChangeError::Exists { server, message },
            Kind::NotFound => ChangeError::NotFound { server },
            Kind::MajorityAtRisk => ChangeError::MajorityAtRisk { voters, reachable, message },
            Kind::NotVoter => ChangeError::NotVoter { server, message },
            Kind::Busy => ChangeError::Busy,
            Kind::Unsuitable => ChangeError::Unsuitable { message },
            Kind::Expired => ChangeError::Expired,
            Kind::Stopped => ChangeError::Stopped { message },
            Kind::MustBeAdded => ChangeError::MustBeAdded { message },
        })
    }

    /// Makes a change, if this server leads.
    pub(crate) async fn answer(&self, change: Change, deadline: Instant) -> Result<peer::Changed, ChangeError> {
        let leader = self.leadership.current().filter(|leader| self.leadership.is_self(leader));
        let leader = leader.ok_or(ChangeError::NoLeader)?;
        let changing = async {
            let (mut term, mut id) = (leader.term, None);
            match change {
                Change::Join(join) => self.join(server_id_from_storage(join.id), &join.address).await?,
                Change::Add(add) => id = Some(self.add(add.server, &add.address, add.learner).await?),
                Change::Remove(remove) => {
                    // Whoever leads now goes on with it.
                    self.remove(remove.server).await?.ok_or(ChangeError::NoLeader)?;
                }
                Change::Leave(leave) => self.leave(server_id_from_storage(leave.id)).await?,
                Change::Transfer(transfer) => {
                    let to = (transfer.server != 0).then_some(transfer.server);
                    term = self.hand_over(to).await?;
                }
            }
            Ok(peer::Changed { term, id: id.map(server_id_to_storage) })
        };
        tokio::time::timeout_at(deadline, changing).await.map_err(|_| ChangeError::Expired)?
    }

    /// What a server does before it stops: who leads hands over, and who is only counted among the
    /// learners leaves.
    pub(crate) async fn leave_in_peace(&self, deadline: Instant) {
        let own = self.cell.id;
        if self.leadership.leads() && !self.leadership.is_sole() {
            match self.hand_over(None).await {
                Ok(_) => {}
                Err(error) => tracing::info!(%error, "leadership is not handed over; another server will be elected"),
            }
        }
        if !self.cell.is_alone() && own.server > self.cell.voters && !self.is_voter(own) {
            let leave = Change::Leave(peer::Leave { id: Some(server_id_to_storage(own)) });
            match self.request(leave, deadline).await {
                Ok(_) => tracing::info!("left the cell, in which this server was a learner"),
                Err(error) => tracing::info!(%error, "could not leave the cell; it lets go of this server in time"),
            }
        }
    }

    /// Makes a change for a peer, if this server leads.
    pub(crate) async fn answer_peer(&self, request: peer::ChangeRequest) -> peer::ChangeResponse {
        let deadline = Instant::now() + Duration::from_micros(request.timeout_micros).min(Duration::from_secs(300));
        let outcome = match request.change {
            Some(change) => self.answer(change, deadline).await,
            None => Err(ChangeError::Unsuitable { message: "a change of nothing was asked for".to_owned() }),
        };
        let result = match outcome {
            Ok(changed) => Done::Changed(changed),
            Err(error) => Done::Refusal(refusal(&error)),
        };
        peer::ChangeResponse { result: Some(result) }
    }
}

fn refusal(error: &ChangeError) -> peer::ChangeRefusal {
    let message = error.to_string();
    let (kind, server, voters, reachable) = match *error {
        ChangeError::NoLeader => (Kind::NotLeader, 0, 0, 0),
        ChangeError::Exists { server, .. } => (Kind::Exists, server, 0, 0),
        ChangeError::NotFound { server } => (Kind::NotFound, server, 0, 0),
        ChangeError::MajorityAtRisk { voters, reachable, .. } => (Kind::MajorityAtRisk, 0, voters, reachable),
        ChangeError::NotVoter { server, .. } => (Kind::NotVoter, server, 0, 0),
        ChangeError::Busy => (Kind::Busy, 0, 0, 0),
        ChangeError::Unsuitable { .. } => (Kind::Unsuitable, 0, 0, 0),
        ChangeError::MustBeAdded { .. } => (Kind::MustBeAdded, 0, 0, 0),
        ChangeError::Expired => (Kind::Expired, 0, 0, 0),
        ChangeError::Stopped { .. } => (Kind::Stopped, 0, 0, 0),
    };
    peer::ChangeRefusal { kind: kind.into(), message, voters, reachable, server }
}
