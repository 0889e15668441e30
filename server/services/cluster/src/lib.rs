//! Tells of the servers of a cell and checks its data: `flotilla.cluster.v1`.
//!
//! Mounted on every server, whatever services it runs, and with no space of its own. In this
//! version a cell is one server, so what changes members is refused.
//!
//! # Layout
//!
//! * [`backup`]: sends a backup as fast as its client takes it, and no faster.

mod backup;

use std::{collections::BTreeMap, time::SystemTime};

use flotilla_kit::{Call, Error, Refusal};
use flotilla_proto::cluster::v1::{
    AddServerRequest, BackupRequest, BackupResponse, CheckRequest, CheckResponse, FormCellRequest, FormCellResponse,
    GetServersRequest, GetServersResponse, RemoveServerRequest, Role, Server, ServerCheck, SpaceCheck, State,
    TransferLeadershipRequest, TransferLeadershipResponse, WatchServersRequest, WatchServersResponse,
    cluster_service_server::ClusterService,
};
use flotilla_proto::errors::v1::Reason;
use flotilla_replica::{CheckError, CheckReport, Replica};
use flotilla_store::StoreError;
use futures::stream::BoxStream;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// What a server says of itself, beside what its log says.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Where it is reached, `host:port`.
    pub address: String,
    /// The short names of the services it runs.
    pub services: Vec<String>,
    /// The name of every space by its number, for reports.
    pub spaces: BTreeMap<u32, &'static str>,
    /// The version of its binary.
    pub version: &'static str,
    /// Since when its process runs.
    pub started: SystemTime,
}

/// The service.
pub struct Cluster {
    replica: Replica,
    facts: Facts,
    stopping: watch::Receiver<bool>,
}

impl Cluster {
    /// The service over a server's replica, which it needs whole: the rows of all spaces. `stopping`
    /// turns true when the server begins to stop.
    pub fn new(replica: Replica, facts: Facts, stopping: watch::Receiver<bool>) -> Self {
        Self { replica, facts, stopping }
    }

    fn server(&self) -> Server {
        let status = self.replica.status();
        let state = if status.failed.is_some() { State::LogFailed } else { State::Ready };
        Server {
            id: status.server,
            incarnation: status.incarnation.to_string(),
            address: self.facts.address.clone(),
            services: self.facts.services.clone(),
            role: Role::Voter.into(),
            state: state.into(),
            is_leader: status.leader == Some(status.server),
            term: status.term,
            log_end: status.last_log_index,
            applied_index: status.applied_index,
            applied_revision: status.revision,
            lag: lag(status.last_log_index, status.applied_index),
            version: self.facts.version.to_owned(),
            start_time: Some(self.facts.started.into()),
            seen_time: Some(SystemTime::now().into()),
        }
    }

    fn checked(&self, report: CheckReport) -> CheckResponse {
        let spaces: Vec<SpaceCheck> = report
            .spaces
            .into_iter()
            .map(|space| SpaceCheck {
                space: self.space(space.space),
                rows: space.rows,
                expected_hash: format!("{:032x}", space.expected),
                actual_hash: format!("{:032x}", space.actual),
                ok: space.expected == space.actual,
            })
            .collect();
        let ok = spaces.iter().all(|space| space.ok);
        let server_id = self.replica.status().server;
        let server = ServerCheck { server_id, answered: true, spaces, message: String::new() };
        CheckResponse { revision: report.revision, log_index: report.log_index, ok, servers: vec![server] }
    }

    /// The space of a service that this binary doesn't have keeps its number as a name.
    fn space(&self, number: u32) -> String {
        self.facts.spaces.get(&number).map_or_else(|| number.to_string(), |&name| name.to_owned())
    }
}

/// 0 when everything is applied; otherwise how long is not known in this version.
fn lag(log_end: u64, applied: u64) -> Option<prost_types::Duration> {
    (log_end <= applied).then(prost_types::Duration::default)
}

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn form_cell(&self, _: Request<FormCellRequest>) -> Result<Response<FormCellResponse>, Status> {
        Err(later("FormCell"))
    }

    async fn get_servers(&self, request: Request<GetServersRequest>) -> Result<Response<GetServersResponse>, Status> {
        Call::of("GetServers", request)?;
        let status = self.replica.status();
        Ok(Response::new(GetServersResponse {
            cell: status.cell,
            history: status.history,
            servers: vec![self.server()],
            answered_by: status.server,
        }))
    }

    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let (call, _) = Call::of("Check", request)?;
        call.check_deadline()?;
        let report = self.replica.check(call.deadline()).await.map_err(|error| match error {
            CheckError::Propose(error) => Error::from(error),
            CheckError::Store(error @ StoreError::Busy) => {
                Refusal::new(Reason::Overloaded, format!("{error}, or saved by a backup")).into()
            }
            CheckError::Store(error) => Error::from(error),
        })?;
        Ok(Response::new(self.checked(report)))
    }

    type WatchServersStream = BoxStream<'static, Result<WatchServersResponse, Status>>;

    async fn watch_servers(
        &self,
        _: Request<WatchServersRequest>,
    ) -> Result<Response<Self::WatchServersStream>, Status> {
        Err(later("WatchServers"))
    }

    async fn add_server(&self, _: Request<AddServerRequest>) -> Result<Response<Server>, Status> {
        Err(later("AddServer"))
    }

    async fn remove_server(&self, _: Request<RemoveServerRequest>) -> Result<Response<()>, Status> {
        Err(later("RemoveServer"))
    }

    async fn transfer_leadership(
        &self,
        _: Request<TransferLeadershipRequest>,
    ) -> Result<Response<TransferLeadershipResponse>, Status> {
        Err(later("TransferLeadership"))
    }

    type BackupStream = BoxStream<'static, Result<BackupResponse, Status>>;

    async fn backup(&self, request: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let (call, _) = Call::of("Backup", request)?;
        call.check_deadline()?;
        let place = self.replica.begin_backup().map_err(backup::error)?;
        Ok(Response::new(backup::send(place, self.stopping.clone())))
    }
}

fn later(method: &str) -> Status {
    Status::unimplemented(format!("{method} is not in this version, in which a cell is one server"))
}
