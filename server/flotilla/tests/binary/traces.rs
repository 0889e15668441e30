//! Traces, as a collector gets them.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use flotilla_proto::{
    threads::v1::{
        CreateThreadRequest, Message, PostMessageRequest, SubscribeRequest, Thread, subscribe_response::Item,
        threads_service_client::ThreadsServiceClient,
    },
    users::v1::{CreateUserRequest, User, users_service_client::UsersServiceClient},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind},
};
use rustix::process::Signal;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::{
    harness::{Server, directory, until},
    web::get,
};

/// A collector that keeps everything.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.0.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = TraceServiceServer::new(self.clone());
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        address
    }

    fn spans(&self) -> Vec<Span> {
        self.0.lock().unwrap().clone()
    }
}

/// A server that sends its traces somewhere.
fn traced(data_dir: &std::path::Path, collector: SocketAddr, fraction: &str) -> Server {
    let endpoint = format!("telemetry.otlp_endpoint=http://{collector}");
    let fraction = format!("telemetry.trace_sample={fraction}");
    Server::start_with(data_dir, &["--listen", "127.0.0.1:0", "--set", &endpoint, "--set", &fraction])
}

async fn create(server: &Server, email: &str, traceparent: &str) -> User {
    let user = User { email: email.to_owned(), ..User::default() };
    let mut request = Request::new(CreateUserRequest { user: Some(user), request_id: email.to_owned() });
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    UsersServiceClient::new(server.channel().await).create_user(request).await.unwrap().into_inner()
}

/// A request of a user's device.
fn of<M>(user: &User, message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("flotilla-user", user.id.parse().unwrap());
    request.metadata_mut().insert("flotilla-device", "phone".parse().unwrap());
    request
}

fn attribute(span: &Span, key: &str) -> Option<Value> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    found.value.clone()?.value
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_trace_goes_on_through_the_log() {
    let dir = directory();
    let collector = Collector::default();
    let mut server = traced(dir.path(), collector.start().await, "0");
    create(&server, "bob@example.org", "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00").await;
    create(&server, "ada@example.org", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").await;
    server.process.signal(Signal::TERM);
    assert_eq!(server.process.wait().code(), Some(0));

    // A server that stops sends what it has.
    let spans = collector.spans();
    let mut names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    let request = "flotilla.users.v1.UsersService/CreateUser";
    assert_eq!(names, ["apply", request, "fsync", "queue", "transaction"]);
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    assert!(spans.iter().all(|span| span.trace_id == 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes()));

    let (request, transaction) = (named(request), named("transaction"));
    assert_eq!(request.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    assert_eq!(request.kind(), SpanKind::Server);
    let text = |text: &str| Some(Value::StringValue(text.to_owned()));
    assert_eq!(attribute(request, "rpc.system"), text("grpc"));
    assert_eq!(attribute(request, "rpc.service"), text("flotilla.users.v1.UsersService"));
    assert_eq!(attribute(request, "rpc.method"), text("CreateUser"));
    assert_eq!(attribute(request, "rpc.grpc.status_code"), Some(Value::IntValue(0)));
    assert!(matches!(attribute(transaction, "revision"), Some(Value::IntValue(2..))));
    assert_eq!(attribute(transaction, "outcome"), text("committed"));
    assert_eq!(attribute(named("fsync"), "transactions"), Some(Value::IntValue(1)));

    let within = |child: &Span, parent: &Span| {
        assert_eq!(child.parent_span_id, parent.span_id, "{} is in {}", child.name, parent.name);
        assert!(parent.start_time_unix_nano <= child.start_time_unix_nano, "{child:?} in {parent:?}");
        assert!(child.end_time_unix_nano <= parent.end_time_unix_nano, "{child:?} in {parent:?}");
    };
    within(transaction, request);
    let stages = ["queue", "fsync", "apply"].map(named);
    for stage in stages {
        within(stage, transaction);
        assert!(stage.start_time_unix_nano <= stage.end_time_unix_nano, "{stage:?}");
    }
    for [before, after] in [[stages[0], stages[1]], [stages[1], stages[2]]] {
        assert!(before.end_time_unix_nano <= after.start_time_unix_nano, "{before:?} before {after:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_push_of_a_traced_post_is_in_its_trace() {
    let dir = directory();
    let collector = Collector::default();
    let mut server = traced(dir.path(), collector.start().await, "0");
    let ada = create(&server, "ada@example.org", "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00").await;
    let mut client = ThreadsServiceClient::new(server.channel().await);
    let thread = Thread { display_name: "harbour".to_owned(), ..Thread::default() };
    let request = CreateThreadRequest { thread: Some(thread), request_id: "1".to_owned(), ..Default::default() };
    let thread_id = client.create_thread(of(&ada, request)).await.unwrap().into_inner().id;
    let mut stream = client.subscribe(of(&ada, SubscribeRequest::default())).await.unwrap().into_inner();
    let message = Some(Message { text: "hello".to_owned(), data: None });
    let mut post = of(&ada, PostMessageRequest { thread_id, message, request_id: "2".to_owned() });
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    post.metadata_mut().insert("traceparent", parent.parse().unwrap());
    client.post_message(post).await.unwrap();
    let is_it = |item: &Option<Item>| matches!(item, Some(Item::Event(event)) if event.sequence == 2);
    while !is_it(&stream.message().await.unwrap().unwrap().item) {}
    server.process.signal(Signal::TERM);
    assert_eq!(server.process.wait().code(), Some(0));

    let spans = collector.spans();
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let (transaction, push) = (named("transaction"), named("push"));
    assert_eq!(push.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
    assert_eq!(push.parent_span_id, transaction.span_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_nothing_but_the_spans() {
    let dir = directory();
    // Nobody listens on a port that was just given back.
    let away = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut server = traced(dir.path(), away, "1");
    server.json(&["users", "create", "--email", "ada@example.org"]);
    until("dropped spans are counted", || {
        let page = get(server.health, "/metrics").body;
        page.lines().any(|line| line.strip_prefix("flotilla_trace_spans_dropped_total ").is_some_and(|n| n != "0"))
    });
    server.process.stderr("the warning", |line| line.contains("didn't take spans") && line.contains("WARN"));
    server.json(&["users", "create", "--email", "bob@example.org"]);
    let asked = Instant::now();
    server.process.signal(Signal::TERM);
    assert_eq!(server.process.wait().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?}", asked.elapsed());
}
