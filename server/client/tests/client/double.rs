//! A server of threads that does what a test tells it to, and remembers what it was asked.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use flotilla_client::{
    Client, Target,
    proto::{
        ERROR_DOMAIN,
        errors::v1::Reason,
        feed::v1::Heartbeat,
        threads::v1::{
            AckRequest, AckResponse, AddMemberRequest, CreateThreadRequest, Event, GetThreadRequest,
            ListDevicesRequest, ListDevicesResponse, ListEventsRequest, ListEventsResponse, ListMembersRequest,
            ListMembersResponse, ListThreadsRequest, ListThreadsResponse, Member, PostMessageRequest,
            RemoveMemberRequest, SubscribeRequest, SubscribeResponse, Thread, ThreadCursor, UpdateThreadRequest,
            subscribe_request::Start,
            subscribe_response::Item,
            threads_service_server::{ThreadsService, ThreadsServiceServer},
        },
    },
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{DuplexStream, copy_bidirectional, duplex},
    sync::{mpsc, watch},
    task::AbortHandle,
    time::Instant,
};
use tokio_stream::{
    Stream, StreamExt,
    wrappers::{ReceiverStream, UnboundedReceiverStream},
};
use tonic::{
    Code, Request, Response, Status,
    transport::{Endpoint, Server, Uri},
};
use tonic_types::{ErrorDetails, StatusExt};

/// How a stream ends after so many messages.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Break {
    /// As a server that is stopped.
    End,
    /// With a status.
    Unavailable,
    /// With the connection.
    Connection,
    /// Not at all: it says nothing any more.
    Silence,
}

/// The server, from the side of the test.
#[derive(Clone)]
pub(crate) struct Double {
    state: Arc<Mutex<State>>,
    news: watch::Sender<()>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) history: String,
    pub(crate) threads: BTreeMap<String, Vec<Event>>,
    /// How the next streams end; when there is nothing here, they go on.
    pub(crate) breaks: VecDeque<(usize, Break)>,
    /// What the next streams send instead of their threads.
    pub(crate) scripts: VecDeque<Vec<Result<Item, Status>>>,
    pub(crate) subscribed: Vec<SubscribeRequest>,
    /// What the next changes and reads of a thread answer instead of success.
    pub(crate) failures: VecDeque<Failure>,
    /// The request ids of calls that came.
    pub(crate) calls: Vec<(Instant, String)>,
    /// What the next Acks answer instead of success.
    pub(crate) ack_failures: VecDeque<Status>,
    pub(crate) acks: Vec<(Instant, AckRequest)>,
    pub(crate) stored: HashMap<String, u64>,
    connections: Vec<AbortHandle>,
}

/// How a call fails.
pub(crate) enum Failure {
    Status(Status),
    Connection,
}

impl Double {
    /// A server, and the device `laptop` of the user `ada` as its client.
    pub(crate) fn start() -> (Self, Client) {
        Self::start_for(Target::new("http://double").user("ada").device("laptop"))
    }

    pub(crate) fn start_for(target: Target) -> (Self, Client) {
        let state = State { history: "H".to_owned(), ..State::default() };
        let double = Self { state: Arc::new(Mutex::new(state)), news: watch::channel(()).0 };
        let (sender, incoming) = mpsc::unbounded_channel::<DuplexStream>();
        let service = ThreadsServiceServer::new(double.clone());
        let incoming = UnboundedReceiverStream::new(incoming).map(Ok::<_, std::io::Error>);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        let shared = double.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let connection = shared.connect(&sender);
            async move { Ok::<_, std::io::Error>(TokioIo::new(connection)) }
        });
        let channel = Endpoint::from_static("http://double").connect_with_connector_lazy(connector);
        (double, Client::over(channel, &target).unwrap())
    }

    /// A connection with a wire in the middle that can be cut.
    fn connect(&self, incoming: &mpsc::UnboundedSender<DuplexStream>) -> DuplexStream {
        let ((client, mut near), (mut far, server)) = (duplex(1 << 16), duplex(1 << 16));
        let wire = tokio::spawn(async move { copy_bidirectional(&mut near, &mut far).await });
        self.state().connections.push(wire.abort_handle());
        incoming.send(server).unwrap();
        client
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn cut_connections(&self) {
        self.state().connections.drain(..).for_each(|wire| wire.abort());
    }

    /// Makes a thread without events.
    pub(crate) fn thread(&self, id: &str) {
        self.state().threads.entry(id.to_owned()).or_default();
    }

    /// Adds the thread's next event.
    pub(crate) fn post(&self, thread: &str) {
        let mut state = self.state();
        let events = state.threads.entry(thread.to_owned()).or_default();
        events.push(event(thread, events.len() as u64 + 1));
        drop(state);
        self.news.send_replace(());
    }

    /// Waits until something is so.
    pub(crate) async fn until(&self, what: &str, so: impl Fn(&State) -> bool) {
        for _ in 0..10_000 {
            if so(&self.state()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("never: {what}");
    }

    fn fail(&self, request_id: &str) -> Option<Failure> {
        let mut state = self.state();
        state.calls.push((Instant::now(), request_id.to_owned()));
        state.failures.pop_front()
    }

    async fn failed<T>(&self, failure: Failure) -> Result<Response<T>, Status> {
        match failure {
            Failure::Status(status) => Err(status),
            Failure::Connection => {
                self.cut_connections();
                std::future::pending().await
            }
        }
    }

    /// What a stream sends until its end.
    async fn serve(self, request: SubscribeRequest, sender: mpsc::Sender<Result<SubscribeResponse, Status>>) {
        let script = self.state().scripts.pop_front();
        if let Some(script) = script {
            for item in script {
                let _ = sender.send(item.map(|item| SubscribeResponse { item: Some(item) })).await;
            }
            return sender.closed().await;
        }
        let broken = self.state().breaks.pop_front();
        let mut left = broken.map_or(usize::MAX, |(messages, _)| messages);
        let mut news = self.news.subscribe();
        let mut places = HashMap::new();
        loop {
            let items = self.next_items(&request, &mut places);
            for item in items {
                if left == 0 {
                    return self.end(broken.map(|(_, kind)| kind), &sender).await;
                }
                left -= 1;
                if sender.send(Ok(SubscribeResponse { item: Some(item) })).await.is_err() {
                    return;
                }
            }
            if left == 0 {
                return self.end(broken.map(|(_, kind)| kind), &sender).await;
            }
            tokio::select! {
                _ = news.changed() => {}
                () = tokio::time::sleep(Duration::from_secs(20)) => {
                    let _ = sender.send(Ok(SubscribeResponse { item: Some(heartbeat()) })).await;
                }
                () = sender.closed() => return,
            }
        }
    }

    /// Starts and events that a stream hasn't sent yet.
    fn next_items(&self, request: &SubscribeRequest, places: &mut HashMap<String, u64>) -> Vec<Item> {
        let state = self.state();
        let mut items = Vec::new();
        for (thread, events) in &state.threads {
            if !request.thread_ids.is_empty() && !request.thread_ids.contains(thread) {
                continue;
            }
            let place = places.entry(thread.clone()).or_insert_with(|| {
                let asked = request.cursors.iter().find(|cursor| &cursor.thread_id == thread);
                let stored = match request.start() {
                    Start::Now => events.len() as u64,
                    _ => state.stored.get(thread).copied().unwrap_or_default(),
                };
                let sequence = asked.map_or(stored, |cursor| cursor.sequence);
                items.push(Item::Started(cursor(thread, &state.history, sequence)));
                sequence
            });
            items.extend(events[*place as usize..].iter().cloned().map(Item::Event));
            *place = events.len() as u64;
        }
        items
    }

    async fn end(&self, kind: Option<Break>, sender: &mpsc::Sender<Result<SubscribeResponse, Status>>) {
        match kind {
            Some(Break::Unavailable) => {
                let _ = sender.send(Err(refusal(Code::Unavailable, Reason::ShuttingDown, &[], None))).await;
            }
            Some(Break::Connection) => self.cut_connections(),
            Some(Break::Silence) => sender.closed().await,
            Some(Break::End) | None => {}
        }
    }
}

pub(crate) fn event(thread: &str, sequence: u64) -> Event {
    Event { thread_id: thread.to_owned(), sequence, ..Event::default() }
}

pub(crate) fn cursor(thread: &str, history: &str, sequence: u64) -> ThreadCursor {
    ThreadCursor { thread_id: thread.to_owned(), history: history.to_owned(), sequence }
}

pub(crate) fn heartbeat() -> Item {
    Item::Heartbeat(Heartbeat::default())
}

/// A server's no.
pub(crate) fn refusal(code: Code, reason: Reason, metadata: &[(&str, &str)], retry_after: Option<Duration>) -> Status {
    let metadata: HashMap<String, String> = metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let mut details = ErrorDetails::with_error_info(reason.wire_name(), ERROR_DOMAIN, metadata);
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    Status::with_error_details(code, reason.wire_name(), details)
}

#[tonic::async_trait]
impl ThreadsService for Double {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send>>;

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = request.into_inner();
        self.state().subscribed.push(request.clone());
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(self.clone().serve(request, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn ack(&self, request: Request<AckRequest>) -> Result<Response<AckResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state();
        state.acks.push((Instant::now(), request.clone()));
        if let Some(status) = state.ack_failures.pop_front() {
            return Err(status);
        }
        for cursor in &request.cursors {
            let stored = state.stored.entry(cursor.thread_id.clone()).or_default();
            *stored = cursor.sequence.max(*stored);
        }
        Ok(Response::new(AckResponse { cursors: request.cursors }))
    }

    async fn get_thread(&self, request: Request<GetThreadRequest>) -> Result<Response<Thread>, Status> {
        match self.fail("") {
            Some(failure) => self.failed(failure).await,
            None => Ok(Response::new(Thread { id: request.into_inner().id, ..Thread::default() })),
        }
    }

    async fn post_message(&self, request: Request<PostMessageRequest>) -> Result<Response<Event>, Status> {
        match self.fail(&request.into_inner().request_id) {
            Some(failure) => self.failed(failure).await,
            None => Ok(Response::new(event("t", 1))),
        }
    }

    async fn list_threads(
        &self,
        request: Request<ListThreadsRequest>,
    ) -> Result<Response<ListThreadsResponse>, Status> {
        let ListThreadsRequest { page_size, page_token } = request.into_inner();
        let from: usize = page_token.parse().unwrap_or(0);
        let to = from + page_size as usize;
        let state = self.state();
        let ids = state.threads.keys().skip(from).take(page_size as usize);
        let threads = ids.map(|id| Thread { id: id.clone(), ..Thread::default() }).collect();
        let next_page_token = if to < state.threads.len() { to.to_string() } else { String::new() };
        Ok(Response::new(ListThreadsResponse { threads, next_page_token }))
    }

    async fn create_thread(&self, _: Request<CreateThreadRequest>) -> Result<Response<Thread>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn update_thread(&self, _: Request<UpdateThreadRequest>) -> Result<Response<Thread>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn add_member(&self, _: Request<AddMemberRequest>) -> Result<Response<Member>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn remove_member(&self, _: Request<RemoveMemberRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn list_members(&self, _: Request<ListMembersRequest>) -> Result<Response<ListMembersResponse>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn list_events(&self, _: Request<ListEventsRequest>) -> Result<Response<ListEventsResponse>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn list_devices(&self, _: Request<ListDevicesRequest>) -> Result<Response<ListDevicesResponse>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }
}
