//! A server of users and threads, on a free port, over data in a folder of its
//! own, and the clients of its users.

use std::{path::Path, sync::Arc, time::Duration};

use flotilla_kit::{Context, Local, tasks};
use flotilla_proto::{
    threads::v1::{
        CreateThreadRequest, Event, Message, PostMessageRequest, SubscribeRequest, SubscribeResponse, Thread,
        event::Kind, subscribe_response::Item, threads_service_client::ThreadsServiceClient,
    },
    users::v1::{CreateUserRequest, User, users_service_client::UsersServiceClient},
};
use flotilla_replica::{Options, Replica};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Status, Streaming,
    service::{Routes, RoutesBuilder},
    transport::{Channel, Endpoint, Server as Transport},
};
use tonic_types::StatusExt;

/// How long anything may take that a test waits for.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Server {
    pub(crate) replica: Replica,
    pub(crate) stopping: watch::Sender<bool>,
    endpoint: Endpoint,
    channel: Channel,
    running: JoinSet<()>,
    _services: Arc<Routes>,
    data: TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::open(TempDir::new().expect("a folder for data")).await
    }

    async fn open(data: TempDir) -> Self {
        let replica = opened(data.path()).await;
        let mut running = JoinSet::new();
        let stopping = watch::Sender::new(false);
        let services = Local::default();
        let mut routes = RoutesBuilder::default();
        for definition in [flotilla_users::DEFINITION, flotilla_threads::DEFINITION] {
            let context = Context::new(replica.clone(), &definition, stopping.subscribe(), services.clone());
            let built = (definition.build)(context.clone());
            (built.mount)(&mut routes);
            running.spawn(tasks::run(context, built.tasks));
        }
        let routes = Arc::new(routes.routes());
        services.set(&routes);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("the port's address");
        let serving = Transport::builder().add_routes(Routes::clone(&routes));
        let serving = serving.serve_with_incoming(TcpListenerStream::new(listener));
        running.spawn(async move { serving.await.expect("serving") });
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
        let channel = endpoint.connect().await.expect("a connection");
        Self { replica, stopping, endpoint, channel, running, _services: routes, data }
    }

    pub(crate) fn users(&self) -> UsersServiceClient<Channel> {
        UsersServiceClient::new(self.channel.clone())
    }

    pub(crate) fn threads(&self) -> ThreadsServiceClient<Channel> {
        ThreadsServiceClient::new(self.channel.clone()).max_decoding_message_size(16 << 20)
    }

    /// Creates a user of this name.
    pub(crate) async fn user(&self, name: &str) -> String {
        let user =
            User { email: format!("{name}-{}@example.org", unique()), display_name: name.into(), ..User::default() };
        let request = CreateUserRequest { user: Some(user), request_id: unique() };
        self.users().create_user(request).await.expect("a user").into_inner().id
    }

    /// Creates a thread of a user with others.
    pub(crate) async fn thread(&self, owner: &str, members: &[&str]) -> Thread {
        let request = CreateThreadRequest {
            thread: Some(Thread { display_name: "harbour".into(), ..Thread::default() }),
            member_user_ids: members.iter().map(|&user| user.to_owned()).collect(),
            request_id: unique(),
        };
        self.threads().create_thread(by(owner, request)).await.expect("a thread").into_inner()
    }

    pub(crate) async fn post(&self, user: &str, thread: &str, text: &str) -> Result<Event, Status> {
        let message = Some(Message { text: text.into(), data: None });
        let request = PostMessageRequest { thread_id: thread.into(), message, request_id: unique() };
        Ok(self.threads().post_message(by(user, request)).await?.into_inner())
    }

    pub(crate) async fn subscribe(&self, user: &str, device: &str, request: SubscribeRequest) -> Subscriber {
        self.try_subscribe(user, device, request).await.expect("a stream")
    }

    pub(crate) async fn try_subscribe(
        &self,
        user: &str,
        device: &str,
        request: SubscribeRequest,
    ) -> Result<Subscriber, Status> {
        // A connection of its own: what a stream doesn't read would take the
        // connection's window from everybody else's answers.
        let channel = self.endpoint.connect().await.expect("a connection");
        let mut client = ThreadsServiceClient::new(channel).max_decoding_message_size(16 << 20);
        let stream = client.subscribe(from(user, device, request)).await?.into_inner();
        Ok(Subscriber { stream })
    }

    /// Stops everything at once and opens the data anew.
    pub(crate) async fn restart(self) -> Self {
        let Self { replica, stopping, endpoint: _, channel, mut running, _services: services, data } = self;
        stopping.send_replace(true);
        running.shutdown().await;
        replica.shutdown().await.expect("a clean end");
        drop((replica, channel, services));
        Self::open(data).await
    }
}

/// Connections that are closing hold on to the data for a moment.
async fn opened(data: &Path) -> Replica {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let options = Options { min_free_bytes: 0, ..Options::new(data) };
        match Replica::open(options).await {
            Ok(replica) => return replica,
            Err(error) => assert!(Instant::now() < deadline, "the data can't be opened: {error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A stream, as a test reads it.
pub(crate) struct Subscriber {
    stream: Streaming<SubscribeResponse>,
}

impl Subscriber {
    /// The next message that is no heartbeat.
    pub(crate) async fn item(&mut self) -> Result<Item, Status> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = timeout_at(deadline, self.stream.message()).await.expect("a message in time")?;
            match message.expect("the stream goes on").item.expect("a message says something") {
                Item::Heartbeat(_) => {}
                item => return Ok(item),
            }
        }
    }

    /// The next event; passes over where threads start.
    pub(crate) async fn event(&mut self) -> Event {
        loop {
            match self.item().await.expect("an event") {
                Item::Event(event) => return event,
                Item::Started(_) => {}
                other => panic!("expected an event, got {other:?}"),
            }
        }
    }

    /// The sequences of the next events.
    pub(crate) async fn sequences(&mut self, count: usize) -> Vec<u64> {
        let mut sequences = Vec::new();
        while sequences.len() < count {
            sequences.push(self.event().await.sequence);
        }
        sequences
    }

    /// Everything up to the heartbeat that ends the opening.
    pub(crate) async fn opening(&mut self) -> Vec<Item> {
        let mut items = Vec::new();
        loop {
            let message = timeout(PATIENCE, self.stream.message()).await.expect("a message in time");
            match message.expect("no error").expect("the stream goes on").item.expect("something") {
                Item::Heartbeat(_) => return items,
                item => items.push(item),
            }
        }
    }

    /// The status with which the stream ends, after whatever is still to come.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            match timeout(PATIENCE, self.stream.message()).await.expect("an end in time") {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok(""),
                Err(status) => return status,
            }
        }
    }
}

/// A request of a user.
pub(crate) fn by<T>(user: &str, message: T) -> Request<T> {
    from(user, "", message)
}

/// A request of a user's device.
pub(crate) fn from<T>(user: &str, device: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    for (key, value) in [("flotilla-user", user), ("flotilla-device", device)] {
        if !value.is_empty() {
            request.metadata_mut().insert(key, value.parse().expect("metadata"));
        }
    }
    request
}

/// A request id that no test has used.
pub(crate) fn unique() -> String {
    ulid::Ulid::new().to_string()
}

pub(crate) fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

pub(crate) fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> String {
    reason(&answer.expect_err("a refusal"))
}

/// The text of a message.
pub(crate) fn text(event: &Event) -> &str {
    match &event.kind {
        Some(Kind::Message(message)) => &message.text,
        other => panic!("expected a message, got {other:?}"),
    }
}

/// A request for all of the caller's threads, from where the device was.
pub(crate) fn all() -> SubscribeRequest {
    SubscribeRequest::default()
}
