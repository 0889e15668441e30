//! A cell that isn't one: it answers ClusterService as one of three servers would, and remembers what
//! it was asked. For the command line's side of the contract.

use std::sync::{Arc, Mutex};

use flotilla_proto::cluster::v1::{
    AddServerRequest, BackupRequest, BackupResponse, CheckRequest, CheckResponse, FormCellRequest, FormCellResponse,
    GetServersRequest, GetServersResponse, RemoveServerRequest, Role, Server, ServerEvent, State,
    TransferLeadershipRequest, TransferLeadershipResponse, WatchServersRequest, WatchServersResponse,
    cluster_service_server::{ClusterService, ClusterServiceServer},
    server_event::Kind,
    watch_servers_response::Item,
};
use flotilla_proto::feed::v1::Heartbeat;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// How often a new server is looked at before it has caught up.
const LOOKS: u32 = 2;

/// What the cell is at, and what it was asked.
#[derive(Default)]
pub(crate) struct Cell {
    pub(crate) servers: Vec<Server>,
    pub(crate) added: Vec<AddServerRequest>,
    pub(crate) removed: Vec<RemoveServerRequest>,
    pub(crate) formed: Vec<FormCellRequest>,
    /// New servers never catch up.
    pub(crate) stuck: bool,
    looks: u32,
}

/// A cell that answers.
#[derive(Clone, Default)]
pub(crate) struct FakeCell(Arc<Mutex<Cell>>);

impl FakeCell {
    /// Three voters, of which the first leads; serves them until the test's runtime ends.
    pub(crate) async fn serve() -> (Self, String) {
        let cell = Self::default();
        cell.with(|cell| cell.servers = (1..=3).map(|id| server(id, Role::Voter)).collect());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let service = ClusterServiceServer::new(cell.clone());
        let router = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
        (cell, endpoint)
    }

    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Cell) -> R) -> R {
        f(&mut self.0.lock().unwrap())
    }
}

pub(crate) fn server(id: u64, role: Role) -> Server {
    Server {
        id,
        address: format!("10.0.0.{id}:7400"),
        services: vec!["users".to_owned(), "records".to_owned()],
        role: role.into(),
        state: State::Ready.into(),
        is_leader: id == 1,
        term: 7,
        log_end: 1000,
        applied_index: 1000,
        lag: Some(prost_types::Duration::default()),
        version: "0.1.0".to_owned(),
        ..Server::default()
    }
}

#[tonic::async_trait]
impl ClusterService for FakeCell {
    async fn form_cell(&self, request: Request<FormCellRequest>) -> Result<Response<FormCellResponse>, Status> {
        self.with(|cell| cell.formed.push(request.into_inner()));
        Ok(Response::new(FormCellResponse { history: "01H".to_owned(), voters: vec![1, 2] }))
    }

    async fn get_servers(&self, _: Request<GetServersRequest>) -> Result<Response<GetServersResponse>, Status> {
        let servers = self.with(|cell| {
            cell.looks += 1;
            let done = cell.looks > LOOKS && !cell.stuck;
            for server in cell.servers.iter_mut().filter(|server| server.lag.is_none() && done) {
                server.role = Role::Voter.into();
                server.lag = Some(prost_types::Duration::default());
            }
            cell.servers.clone()
        });
        Ok(Response::new(GetServersResponse {
            cell: "fake".to_owned(),
            history: "01H".to_owned(),
            servers,
            answered_by: 2,
        }))
    }

    type WatchServersStream = BoxStream<'static, Result<WatchServersResponse, Status>>;

    async fn watch_servers(
        &self,
        _: Request<WatchServersRequest>,
    ) -> Result<Response<Self::WatchServersStream>, Status> {
        let servers = self.with(|cell| cell.servers.clone());
        let event = |kind: Kind, server: &Server| {
            let server = Some(server.clone());
            WatchServersResponse { item: Some(Item::Event(ServerEvent { kind: kind.into(), server, time: None })) }
        };
        let mut items: Vec<_> = servers.iter().map(|server| event(Kind::Present, server)).collect();
        items.push(WatchServersResponse { item: Some(Item::Heartbeat(Heartbeat::default())) });
        let second = Server { is_leader: true, term: 8, ..server(2, Role::Voter) };
        items.push(event(Kind::LeaderChanged, &second));
        let items = stream::iter(items.into_iter().map(Ok)).chain(stream::pending());
        Ok(Response::new(items.boxed()))
    }

    async fn add_server(&self, request: Request<AddServerRequest>) -> Result<Response<Server>, Status> {
        let request = request.into_inner();
        let joined = Server { address: request.address.clone(), lag: None, ..server(request.id, Role::Learner) };
        self.with(|cell| {
            cell.looks = 0;
            cell.servers.push(joined.clone());
            cell.added.push(request);
        });
        Ok(Response::new(joined))
    }

    async fn remove_server(&self, request: Request<RemoveServerRequest>) -> Result<Response<()>, Status> {
        self.with(|cell| cell.removed.push(request.into_inner()));
        Ok(Response::new(()))
    }

    async fn transfer_leadership(
        &self,
        request: Request<TransferLeadershipRequest>,
    ) -> Result<Response<TransferLeadershipResponse>, Status> {
        match request.into_inner().id {
            4.. => Err(Status::failed_precondition("server 4 does not vote")),
            _ => Ok(Response::new(TransferLeadershipResponse { term: 8 })),
        }
    }

    type BackupStream = BoxStream<'static, Result<BackupResponse, Status>>;

    async fn backup(&self, _: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        Err(Status::unimplemented("the fake cell has no data"))
    }

    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        Err(Status::unimplemented("the fake cell has no data"))
    }
}
