//! A server of one service, on a free port, over data in a folder of its own.

use flotilla_kit::{Context, Local};
use flotilla_proto::users::v1::{CreateUserRequest, User, users_service_client::UsersServiceClient};
use flotilla_replica::{Options, Replica};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Status,
    service::RoutesBuilder,
    transport::{Channel, Server as Transport},
};
use tonic_types::{ErrorDetails, StatusExt};

pub(crate) type Client = UsersServiceClient<Channel>;

pub(crate) struct Server {
    pub(crate) client: Client,
    pub(crate) stopping: watch::Sender<bool>,
    pub(crate) replica: Replica,
    _data: TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let data = TempDir::new().expect("a folder for data");
        let options = Options { min_free_bytes: 0, ..Options::new(data.path()) };
        let replica = Replica::open(options).await.expect("a replica");
        let (stopping, shutdown) = watch::channel(false);
        let context = Context::new(replica.clone(), &flotilla_users::DEFINITION, shutdown, Local::default());
        let mut routes = RoutesBuilder::default();
        ((flotilla_users::DEFINITION.build)(context).mount)(&mut routes);

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("the port's address");
        let serving = Transport::builder().add_routes(routes.routes());
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        let client = Client::connect(format!("http://{address}")).await.expect("a connection");
        Self { client, stopping, replica, _data: data }
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Creates a user who has nothing but names and an address made of them.
    pub(crate) async fn created(&self, first: &str, last: &str) -> User {
        let user = User {
            email: format!("{first}.{last}@example.org"),
            first_name: first.into(),
            last_name: last.into(),
            ..User::default()
        };
        self.client().create_user(create(&user, &unique())).await.expect("a new user").into_inner()
    }
}

pub(crate) fn create(user: &User, request_id: &str) -> CreateUserRequest {
    CreateUserRequest { user: Some(user.clone()), request_id: request_id.into() }
}

pub(crate) fn with_email(email: &str) -> User {
    User { email: email.into(), ..User::default() }
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

/// The fields that a BadRequest names.
pub(crate) fn fields(status: &Status) -> Vec<String> {
    let (_, details) = details(status);
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}
