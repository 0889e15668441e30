//! A check of all servers, as an answer.

use std::collections::BTreeMap;

use flotilla_kit::{Error, Refusal};
use flotilla_proto::{
    cluster::v1::{CheckResponse, ServerCheck, SpaceCheck},
    errors::v1::Reason,
};
use flotilla_replica::{self as replica, CheckError, CheckReport};
use flotilla_store::StoreError;

pub(crate) fn error(error: CheckError) -> Error {
    match error {
        CheckError::Propose(error) => Error::from(error),
        CheckError::Store(error) if matches!(*error, StoreError::Busy) => {
            Refusal::new(Reason::Overloaded, format!("{error}, or saved by a backup")).into()
        }
        CheckError::Store(error) => Error::internal(error.to_string()),
    }
}

/// What the servers found. A space is as it should be if its two hashes are equal, and equal to those
/// of the server that answers.
pub(crate) fn answer(
    server: u64,
    own: CheckReport,
    others: Vec<replica::ServerCheck>,
    names: &BTreeMap<u32, &'static str>,
) -> CheckResponse {
    let reference: BTreeMap<u32, u128> = own.spaces.iter().map(|space| (space.space, space.expected)).collect();
    let (revision, log_index) = (own.revision, own.log_index);
    let mut reports = vec![replica::ServerCheck { server, report: Ok(own) }];
    reports.extend(others);
    reports.sort_by_key(|report| report.server);
    let servers: Vec<ServerCheck> = reports
        .into_iter()
        .map(|check| match check.report {
            Ok(report) => {
                let mut spaces: Vec<SpaceCheck> = report
                    .spaces
                    .iter()
                    .map(|space| SpaceCheck {
                        space: name(space.space, names),
                        rows: space.rows,
                        expected_hash: format!("{:032x}", space.expected),
                        actual_hash: format!("{:032x}", space.actual),
                        ok: space.expected == space.actual && reference.get(&space.space) == Some(&space.actual),
                    })
                    .collect();
                // One that is missing whole would not be seen otherwise.
                let missing =
                    reference.keys().filter(|space| !report.spaces.iter().any(|found| found.space == **space));
                spaces.extend(missing.map(|space| SpaceCheck { space: name(*space, names), ..SpaceCheck::default() }));
                ServerCheck { server_id: check.server, answered: true, spaces, message: String::new() }
            }
            Err(message) => ServerCheck { server_id: check.server, answered: false, spaces: Vec::new(), message },
        })
        .collect();
    let ok = servers.iter().all(|server| server.answered && server.spaces.iter().all(|space| space.ok));
    CheckResponse { revision, log_index, ok, servers }
}

/// The space of a service that this binary doesn't have keeps its number as a name.
fn name(space: u32, names: &BTreeMap<u32, &'static str>) -> String {
    names.get(&space).map_or_else(|| space.to_string(), |&name| name.to_owned())
}
