//! Tells of the servers of a cell, changes them, and checks its data: `flotilla.cluster.v1`.
//!
//! Mounted on every server, whatever services it runs, from its start on, and with no space of its own.
//!
//! # Layout
//!
//! * [`servers`]: the cell's servers, as messages.
//! * [`watch`]: what happens to them, as a stream.
//! * [`check`]: a check of all servers, as an answer.
//! * [`backup`]: sends a backup as fast as its client takes it, and no faster.
//! * [`errors`]: why members were not changed, in the contract's words.

mod backup;
mod check;
mod errors;
mod servers;
mod watch;

use std::collections::BTreeMap;

use flotilla_kit::{Call, Error, fields::FieldViolation};
use flotilla_proto::cluster::v1::{
    AddServerRequest, BackupRequest, BackupResponse, CheckRequest, CheckResponse, FormCellRequest, FormCellResponse,
    GetServersRequest, GetServersResponse, RemoveServerRequest, Server, TransferLeadershipRequest,
    TransferLeadershipResponse, WatchServersRequest, WatchServersResponse, cluster_service_server::ClusterService,
};
use flotilla_replica::{ProposeError, Replica};
use futures::stream::BoxStream;
use tokio::sync::watch as news;
use tonic::{Request, Response, Status};

/// Characters of an address.
const MAX_ADDRESS: usize = 261;

/// The service.
pub struct Cluster {
    replica: Replica,
    /// The name of every space by its number, for reports.
    spaces: BTreeMap<u32, &'static str>,
    stopping: news::Receiver<bool>,
}

impl Cluster {
    /// The service over a server's replica, which it needs whole: the rows of all spaces. `spaces` has
    /// their names by their numbers; `stopping` turns true when the server begins to stop.
    pub fn new(replica: Replica, spaces: BTreeMap<u32, &'static str>, stopping: news::Receiver<bool>) -> Self {
        Self { replica, spaces, stopping }
    }

    /// Refuses what needs the cell's data from a server that has not caught up yet.
    fn check_ready(&self) -> Result<(), Error> {
        match self.replica.is_ready() {
            true => Ok(()),
            false => Err(errors::starting()),
        }
    }

    fn server(&self, id: u64) -> Result<Server, Error> {
        let found = self.replica.servers().into_iter().find(|server| server.id.server == id);
        found.map(servers::message).ok_or_else(|| errors::not_found(id))
    }
}

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn form_cell(&self, request: Request<FormCellRequest>) -> Result<Response<FormCellResponse>, Status> {
        let (call, request) = Call::of("FormCell", request)?;
        call.check_deadline()?;
        let formed = self.replica.form(&request.without).await.map_err(errors::of_forming)?;
        Ok(Response::new(FormCellResponse { history: formed.0, voters: formed.1 }))
    }

    async fn get_servers(&self, request: Request<GetServersRequest>) -> Result<Response<GetServersResponse>, Status> {
        Call::of("GetServers", request)?;
        let status = self.replica.status();
        Ok(Response::new(GetServersResponse {
            cell: status.cell,
            history: status.history,
            servers: self.replica.servers().into_iter().map(servers::message).collect(),
            answered_by: status.server,
        }))
    }

    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let (call, _) = Call::of("Check", request)?;
        call.check_deadline()?;
        self.check_ready()?;
        let (own, others) = self.replica.check_cell(call.deadline()).await.map_err(check::error)?;
        Ok(Response::new(check::answer(self.replica.status().server, own, others, &self.spaces)))
    }

    type WatchServersStream = BoxStream<'static, Result<WatchServersResponse, Status>>;

    async fn watch_servers(
        &self,
        request: Request<WatchServersRequest>,
    ) -> Result<Response<Self::WatchServersStream>, Status> {
        Call::of("WatchServers", request)?;
        Ok(Response::new(watch::stream(self.replica.clone(), self.stopping.clone())))
    }

    async fn add_server(&self, request: Request<AddServerRequest>) -> Result<Response<Server>, Status> {
        let (call, request) = Call::of("AddServer", request)?;
        call.check_deadline()?;
        let address = request.address.trim();
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
        if port.is_none_or(|port| port.parse::<u16>().is_err()) || address.len() > MAX_ADDRESS {
            let violation = FieldViolation::new("address", format!("is {address:?}; it must look like 10.0.0.4:7400"));
            return Err(Error::from(violation).into());
        }
        if request.id == 0 {
            return Err(Error::from(FieldViolation::new("id", "is 0; servers are numbered from 1")).into());
        }
        self.check_ready()?;
        let added = self.replica.add_server(request.id, address, request.learner, call.deadline()).await;
        added.map_err(|error| errors::of_change(error, request.id, address))?;
        // This server may hear of the change a moment later than the leader.
        self.until_known(&call, |server| server.id.server == request.id).await?;
        Ok(Response::new(self.server(request.id)?))
    }

    async fn remove_server(&self, request: Request<RemoveServerRequest>) -> Result<Response<()>, Status> {
        let (call, request) = Call::of("RemoveServer", request)?;
        call.check_deadline()?;
        self.check_ready()?;
        let removed = self.replica.remove_server(request.id, call.deadline()).await;
        removed.map_err(|error| errors::of_change(error, request.id, ""))?;
        Ok(Response::new(()))
    }

    async fn transfer_leadership(
        &self,
        request: Request<TransferLeadershipRequest>,
    ) -> Result<Response<TransferLeadershipResponse>, Status> {
        let (call, request) = Call::of("TransferLeadership", request)?;
        call.check_deadline()?;
        if request.id == 0 {
            return Err(Error::from(FieldViolation::new("id", "is 0; servers are numbered from 1")).into());
        }
        self.check_ready()?;
        let transferred = self.replica.transfer_leadership(request.id, call.deadline()).await;
        let term = transferred.map_err(|error| errors::of_change(error, request.id, ""))?;
        Ok(Response::new(TransferLeadershipResponse { term }))
    }

    type BackupStream = BoxStream<'static, Result<BackupResponse, Status>>;

    async fn backup(&self, request: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let (call, _) = Call::of("Backup", request)?;
        call.check_deadline()?;
        self.check_ready()?;
        let place = self.replica.begin_backup().map_err(backup::error)?;
        Ok(Response::new(backup::send(place, self.stopping.clone())))
    }
}

impl Cluster {
    async fn until_known(
        &self,
        call: &Call,
        wanted: impl Fn(&flotilla_replica::ServerStatus) -> bool,
    ) -> Result<(), Error> {
        let mut rounds = self.replica.watch_servers();
        while !self.replica.servers().iter().any(&wanted) {
            let waited = tokio::time::timeout_at(call.deadline(), rounds.changed()).await;
            if !matches!(waited, Ok(Ok(()))) {
                return Err(Error::from(ProposeError::DeadlineExpired { submitted: true }));
            }
        }
        Ok(())
    }
}
