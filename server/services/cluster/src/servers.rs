//! A server of the cell, as a message.

use std::time::{Duration, SystemTime};

use flotilla_proto::cluster::v1::{Role, Server, State};
use flotilla_replica::ServerStatus;

pub(crate) fn message(status: ServerStatus) -> Server {
    let state = State::try_from(status.state as i32).unwrap_or(State::Unspecified);
    Server {
        id: status.id.server,
        incarnation: status.id.incarnation.to_string(),
        address: status.address,
        services: status.services,
        role: if status.voter { Role::Voter } else { Role::Learner }.into(),
        state: state.into(),
        is_leader: status.is_leader,
        term: status.term,
        log_end: status.log_end,
        applied_index: status.applied_index,
        applied_revision: status.revision,
        lag: status.lag.and_then(|lag| lag.try_into().ok()),
        version: status.version,
        start_time: time(status.start_time),
        seen_time: time(status.seen_time),
    }
}

fn time(micros: u64) -> Option<prost_types::Timestamp> {
    (micros > 0).then(|| (SystemTime::UNIX_EPOCH + Duration::from_micros(micros)).into())
}
