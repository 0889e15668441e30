//! A server of one service, on a free port, over data in a folder of its own.

use flotilla_kit::{Context, Local};
use flotilla_proto::records::v1::{
    GetRecordRequest, PutRecordRequest, Record, records_service_client::RecordsServiceClient,
};
use flotilla_replica::{Options, Replica};
use prost_types::{Struct, Value, value::Kind};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Status,
    service::RoutesBuilder,
    transport::{Channel, Server as Transport},
};
use tonic_types::{ErrorDetails, StatusExt};

pub(crate) type Client = RecordsServiceClient<Channel>;

pub(crate) struct Server {
    pub(crate) client: Client,
    pub(crate) replica: Replica,
    _stopping: watch::Sender<bool>,
    _data: TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let data = TempDir::new().expect("a folder for data");
        let options = Options { min_free_bytes: 0, ..Options::new(data.path()) };
        let replica = Replica::open(options).await.expect("a replica");
        let (stopping, shutdown) = watch::channel(false);
        let context = Context::new(replica.clone(), &flotilla_records::DEFINITION, shutdown, Local::default());
        let mut routes = RoutesBuilder::default();
        ((flotilla_records::DEFINITION.build)(context).mount)(&mut routes);

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("the port's address");
        let serving = Transport::builder().add_routes(routes.routes());
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        let client = Client::connect(format!("http://{address}")).await.expect("a connection");
        Self { client, replica, _stopping: stopping, _data: data }
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    pub(crate) async fn put(&self, table: &str, id: &str, number: f64) -> Record {
        self.client().put_record(put(table, id, number)).await.expect("a put").into_inner()
    }

    pub(crate) async fn get(&self, table: &str, id: &str) -> Result<Record, Status> {
        let request = GetRecordRequest { table: table.into(), id: id.into() };
        self.client().get_record(request).await.map(tonic::Response::into_inner)
    }
}

pub(crate) fn put(table: &str, id: &str, number: f64) -> PutRecordRequest {
    PutRecordRequest {
        table: table.into(),
        id: id.into(),
        document: Some(document(number)),
        request_id: unique(),
        ..PutRecordRequest::default()
    }
}

/// `{"number": …}`
pub(crate) fn document(number: f64) -> Struct {
    with("number", Kind::NumberValue(number))
}

pub(crate) fn with(name: &str, kind: Kind) -> Struct {
    Struct { fields: [(name.to_owned(), Value { kind: Some(kind) })].into() }
}

/// A request id that no test has used.
pub(crate) fn unique() -> String {
    ulid::Ulid::new().to_string()
}

pub(crate) fn details(status: &Status) -> (String, ErrorDetails) {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
    (reason, details)
}

pub(crate) fn reason(status: &Status) -> String {
    details(status).0
}

pub(crate) fn metadata(status: &Status, key: &str) -> String {
    let (_, details) = details(status);
    details.error_info().and_then(|info| info.metadata.get(key).cloned()).unwrap_or_default()
}

/// The fields that a BadRequest names.
pub(crate) fn fields(status: &Status) -> Vec<String> {
    let (_, details) = details(status);
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}
