//! Servers of one cell on ports of their own, which do what a test tells them to and remember what they
//! were asked.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use flotilla_client::{
    Client, Target,
    proto::{
        cluster::v1::{
            AddServerRequest, BackupRequest, BackupResponse, CheckRequest, CheckResponse, FormCellRequest,
            FormCellResponse, GetServersRequest, GetServersResponse, RemoveServerRequest, Server, ServerEvent, State,
            TransferLeadershipRequest, TransferLeadershipResponse, WatchServersRequest, WatchServersResponse,
            cluster_service_server::{ClusterService, ClusterServiceServer},
            server_event::Kind,
            watch_servers_response::Item,
        },
        feed::v1::Heartbeat,
        users::v1::{
            CreateUserRequest, DeleteUserRequest, GetUserRequest, ListUsersRequest, ListUsersResponse,
            UpdateUserRequest, User, WatchUsersRequest, WatchUsersResponse,
            users_service_server::{UsersService, UsersServiceServer},
            watch_users_response,
        },
    },
};
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc, time::Instant};
use tokio_stream::{
    Stream,
    wrappers::{ReceiverStream, TcpListenerStream, UnboundedReceiverStream},
};
use tonic::{Request, Response, Status};

/// How long a test waits for something.
const PATIENCE: Duration = Duration::from_secs(20);

/// The cell, from the side of the test.
pub(crate) struct Fleet {
    shared: Arc<Mutex<Shared>>,
    runtimes: HashMap<u64, Runtime>,
}

#[derive(Default)]
pub(crate) struct Shared {
    /// What the cell's list says.
    pub(crate) list: Vec<Server>,
    /// No server knows of lists.
    pub(crate) listless: bool,
    servers: HashMap<u64, Seen>,
    watchers: Vec<(u64, mpsc::UnboundedSender<Result<WatchServersResponse, Status>>)>,
}

/// What one server was asked, and what it answers.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) reads: usize,
    /// Request ids.
    pub(crate) writes: Vec<String>,
    pub(crate) streams: usize,
    pub(crate) connections: usize,
    /// What the next calls answer.
    pub(crate) failures: VecDeque<Status>,
    /// What every call answers.
    pub(crate) always: Option<Status>,
    /// Calls get no answer.
    pub(crate) hangs: bool,
}

impl Fleet {
    /// So many servers, of which the first leads.
    pub(crate) async fn start(servers: u64) -> Self {
        let mut fleet = Self { shared: Arc::default(), runtimes: HashMap::new() };
        for id in 1..=servers {
            let address = fleet.serve(id, "127.0.0.1:0").await;
            let server = Server {
                id,
                incarnation: incarnation(id),
                address,
                services: vec!["users".to_owned()],
                state: State::Ready.into(),
                is_leader: id == 1,
                term: 1,
                ..Server::default()
            };
            fleet.shared().list.push(server);
        }
        fleet
    }

    async fn serve(&mut self, id: u64, address: &str) -> String {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let listener = listener.into_std().unwrap();
        let member = Member { id, shared: self.shared.clone() };
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let shared = member.shared.clone();
            let incoming = tokio_stream::StreamExt::map(TcpListenerStream::new(listener), move |connection| {
                shared.lock().unwrap().servers.entry(id).or_default().connections += 1;
                connection
            });
            let (users, cluster) = (UsersServiceServer::new(member.clone()), ClusterServiceServer::new(member));
            let server = tonic::transport::Server::builder().add_service(users).add_service(cluster);
            server.serve_with_incoming(incoming).await
        });
        self.runtimes.insert(id, runtime);
        address
    }

    /// Ends a server at once, with its connections.
    pub(crate) async fn kill(&mut self, id: u64) {
        let runtime = self.runtimes.remove(&id).unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE)).await.unwrap();
        self.shared().watchers.retain(|(watched, _)| *watched != id);
    }

    /// Starts a server that was killed, where it was.
    pub(crate) async fn restart(&mut self, id: u64) {
        let address = self.endpoint(id).replace("http://", "");
        self.serve(id, &address).await;
    }

    /// The other servers notice that one is gone.
    pub(crate) fn fail(&self, id: u64) {
        self.tell(Kind::Failed, id, |server| {
            server.state = State::Unreachable.into();
            server.is_leader = false;
        });
    }

    pub(crate) fn lead(&self, id: u64) {
        let term = self.shared().list.iter().map(|server| server.term).max().unwrap() + 1;
        self.shared().list.iter_mut().for_each(|server| server.is_leader = false);
        self.tell(Kind::LeaderChanged, id, |server| (server.is_leader, server.term) = (true, term));
    }

    /// Something about a server changes, and those who watch are told.
    pub(crate) fn tell(&self, kind: Kind, id: u64, change: impl FnOnce(&mut Server)) {
        let mut shared = self.shared();
        let server = shared.list.iter_mut().find(|server| server.id == id).unwrap();
        change(server);
        let event = ServerEvent { kind: kind.into(), server: Some(server.clone()), time: None };
        let response = WatchServersResponse { item: Some(Item::Event(event)) };
        shared.watchers.retain(|(_, watcher)| watcher.send(Ok(response.clone())).is_ok());
    }

    /// Ends the streams of lists.
    pub(crate) fn end_lists(&self) {
        self.shared().watchers.clear();
    }

    pub(crate) fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    pub(crate) fn seen<T>(&self, id: u64, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(self.shared().servers.entry(id).or_default())
    }

    pub(crate) fn reads(&self) -> Vec<usize> {
        let servers = self.shared().list.len() as u64;
        (1..=servers).map(|id| self.seen(id, |seen| seen.reads)).collect()
    }

    pub(crate) fn writes(&self, id: u64) -> Vec<String> {
        self.seen(id, |seen| seen.writes.clone())
    }

    /// How many follow the list.
    pub(crate) fn watchers(&self) -> usize {
        let mut shared = self.shared();
        shared.watchers.retain(|(_, watcher)| !watcher.is_closed());
        shared.watchers.len()
    }

    pub(crate) fn endpoint(&self, id: u64) -> String {
        let shared = self.shared();
        format!("http://{}", shared.list.iter().find(|server| server.id == id).unwrap().address)
    }

    pub(crate) fn endpoints(&self) -> String {
        let ids: Vec<u64> = self.shared().list.iter().map(|server| server.id).collect();
        ids.into_iter().map(|id| self.endpoint(id)).collect::<Vec<_>>().join(",")
    }

    pub(crate) async fn client(&self, endpoints: String) -> Client {
        Client::connect(&Target::new(endpoints).timeout(Duration::from_secs(10))).await.unwrap()
    }

    /// A client that has used every server, and writes at the leader.
    pub(crate) async fn settled(&self, endpoints: String) -> Client {
        let client = self.client(endpoints).await;
        let leader = self.shared().list.iter().find(|server| server.is_leader).unwrap().id;
        until("every server is used", async || {
            write(&client).await;
            read(&client).await;
            let all = self.reads().iter().all(|reads| *reads > 0);
            all && !self.writes(leader).is_empty()
        })
        .await;
        client
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.runtimes.drain().for_each(|(_, runtime)| runtime.shutdown_background());
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn read(client: &Client) {
    client.call(GetUserRequest { id: "u".to_owned() }).await.unwrap();
}

pub(crate) async fn write(client: &Client) {
    client.call(CreateUserRequest::default()).await.unwrap();
}

fn incarnation(id: u64) -> String {
    format!("life-of-{id}")
}

/// One server.
#[derive(Clone)]
struct Member {
    id: u64,
    shared: Arc<Mutex<Shared>>,
}

impl Member {
    fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(self.shared.lock().unwrap().servers.entry(self.id).or_default())
    }

    async fn answer<T>(&self, answer: T) -> Result<Response<T>, Status> {
        if self.seen(|seen| seen.hangs) {
            std::future::pending::<()>().await;
        }
        match self.seen(|seen| seen.failures.pop_front().or_else(|| seen.always.clone())) {
            Some(status) => Err(status),
            None => Ok(Response::new(answer)),
        }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl UsersService for Member {
    type WatchUsersStream = Answers<WatchUsersResponse>;

    async fn create_user(&self, request: Request<CreateUserRequest>) -> Result<Response<User>, Status> {
        self.seen(|seen| seen.writes.push(request.into_inner().request_id));
        self.answer(User::default()).await
    }

    async fn get_user(&self, _: Request<GetUserRequest>) -> Result<Response<User>, Status> {
        self.seen(|seen| seen.reads += 1);
        self.answer(User::default()).await
    }

    async fn watch_users(&self, _: Request<WatchUsersRequest>) -> Result<Response<Self::WatchUsersStream>, Status> {
        self.seen(|seen| seen.streams += 1);
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            loop {
                let heartbeat = watch_users_response::Item::Heartbeat(Heartbeat::default());
                if sender.send(Ok(WatchUsersResponse { item: Some(heartbeat) })).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn list_users(&self, _: Request<ListUsersRequest>) -> Result<Response<ListUsersResponse>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn update_user(&self, _: Request<UpdateUserRequest>) -> Result<Response<User>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn delete_user(&self, _: Request<DeleteUserRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }
}

#[tonic::async_trait]
impl ClusterService for Member {
    type WatchServersStream = Answers<WatchServersResponse>;
    type BackupStream = Answers<BackupResponse>;

    async fn get_servers(&self, _: Request<GetServersRequest>) -> Result<Response<GetServersResponse>, Status> {
        // Its own word of itself, whatever the list says.
        let itself = Server { id: self.id, incarnation: incarnation(self.id), ..Server::default() };
        Ok(Response::new(GetServersResponse {
            servers: vec![itself],
            answered_by: self.id,
            ..GetServersResponse::default()
        }))
    }

    async fn watch_servers(
        &self,
        _: Request<WatchServersRequest>,
    ) -> Result<Response<Self::WatchServersStream>, Status> {
        let mut shared = self.shared.lock().unwrap();
        if shared.listless {
            return Err(Status::unimplemented("WatchServers is of a later version"));
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        for server in &shared.list {
            let event = ServerEvent { kind: Kind::Present.into(), server: Some(server.clone()), time: None };
            let _ = sender.send(Ok(WatchServersResponse { item: Some(Item::Event(event)) }));
        }
        let heartbeat = Item::Heartbeat(Heartbeat::default());
        let _ = sender.send(Ok(WatchServersResponse { item: Some(heartbeat) }));
        shared.watchers.push((self.id, sender));
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))))
    }

    async fn form_cell(&self, _: Request<FormCellRequest>) -> Result<Response<FormCellResponse>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn add_server(&self, _: Request<AddServerRequest>) -> Result<Response<Server>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn remove_server(&self, _: Request<RemoveServerRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn transfer_leadership(
        &self,
        _: Request<TransferLeadershipRequest>,
    ) -> Result<Response<TransferLeadershipResponse>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn backup(&self, _: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }
}
