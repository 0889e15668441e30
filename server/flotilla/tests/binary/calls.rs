//! What any gRPC client meets: reflection, health, metrics, services that aren't here.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::{
    cluster::v1::{AddServerRequest, GetServersRequest, Role, State, cluster_service_client::ClusterServiceClient},
    discovery::v1::{ListServersRequest, discovery_service_client::DiscoveryServiceClient},
    users::v1::{CreateUserRequest, User, users_service_client::UsersServiceClient},
};
use tokio_stream::once;
use tonic::{Code, Request, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_types::StatusExt;

use crate::{
    harness::{Server, directory},
    web::get,
};

const SERVICES: [&str; 4] = [
    "flotilla.cluster.v1.ClusterService",
    "flotilla.records.v1.RecordsService",
    "flotilla.threads.v1.ThreadsService",
    "flotilla.users.v1.UsersService",
];

#[tokio::test]
async fn reflection_names_what_is_mounted() {
    let dir = directory();
    let server = Server::start(dir.path());
    let mut reflection = ServerReflectionClient::new(server.channel().await);
    let list = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut answers = reflection.server_reflection_info(once(request)).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(listed)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list of services");
    };
    let names: BTreeSet<String> = listed.service.into_iter().map(|service| service.name).collect();
    assert!(SERVICES.iter().all(|&name| names.contains(name)), "{names:?}");
    assert!(names.contains("grpc.health.v1.Health"), "{names:?}");
    assert!(!names.contains("flotilla.discovery.v1.DiscoveryService"), "{names:?}");
}

/// `grpc.health.v1.HealthListResponse`, which tonic-health lacks.
#[derive(Clone, PartialEq, prost::Message)]
struct Statuses {
    #[prost(btree_map = "string, message", tag = "1")]
    statuses: BTreeMap<String, HealthCheckResponse>,
}

#[tokio::test]
async fn health_is_told_on_both_ports_for_every_service() {
    let dir = directory();
    let server = Server::start(dir.path());
    for channel in [server.channel().await, server.health_channel().await] {
        let unknown = HealthCheckRequest { service: "x".to_owned() };
        let refused = HealthClient::new(channel.clone()).check(unknown).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);

        let mut grpc = Grpc::new(channel);
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static("/grpc.health.v1.Health/List");
        let codec = ProstCodec::<(), Statuses>::default();
        let listed = grpc.unary(Request::new(()), path, codec).await.unwrap().into_inner().statuses;
        let names: Vec<&str> = listed.keys().map(String::as_str).collect();
        assert_eq!(names, ["", SERVICES[0], SERVICES[1], SERVICES[2], SERVICES[3]]);
        assert!(listed.values().all(|status| status.status == 1), "{listed:?}");
    }
}

#[tokio::test]
async fn a_service_that_is_not_here_is_refused_by_name() {
    let dir = directory();
    let server = Server::start(dir.path());
    let mut discovery = DiscoveryServiceClient::new(server.channel().await);
    let refused = discovery.list_servers(ListServersRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    let info = refused.get_details_error_info().unwrap();
    assert_eq!((info.domain.as_str(), info.reason.as_str()), ("flotilla.dev", "SERVICE_NOT_HERE"));
    assert_eq!(info.metadata["service"], "flotilla.discovery.v1.DiscoveryService");
}

#[tokio::test]
async fn a_cell_of_one_server_tells_of_it_and_takes_no_other_that_doesnt_answer() {
    let dir = directory();
    let server = Server::start(dir.path());
    let mut cluster = ClusterServiceClient::new(server.channel().await);
    let cell = cluster.get_servers(GetServersRequest {}).await.unwrap().into_inner();
    let [only] = &cell.servers[..] else { panic!("{cell:?}") };
    assert_eq!((cell.cell.as_str(), cell.answered_by, only.id), ("flotilla", 1, 1));
    assert_eq!((only.role(), only.state(), only.is_leader), (Role::Voter, State::Ready, true));
    assert_eq!(
        (only.address.clone(), &only.services[..]),
        (server.api.to_string(), &["users".into(), "records".into(), "threads".into()][..])
    );
    let nobody = AddServerRequest { id: 2, address: "127.0.0.1:1".to_owned(), ..AddServerRequest::default() };
    let refused = cluster.add_server(nobody).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let info = refused.get_details_error_info().unwrap();
    assert_eq!(info.reason, "SERVER_UNSUITABLE");
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_with_its_size() {
    let dir = directory();
    let server = Server::start(dir.path());
    let mut users = UsersServiceClient::new(server.channel().await);
    let user = User { first_name: "x".repeat(5 << 20), ..User::default() };
    let request = CreateUserRequest { user: Some(user), request_id: "1".to_owned() };
    let refused = users.create_user(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let info = refused.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.metadata["max"].as_str()), ("LIMIT_EXCEEDED", "4194304"));
}

#[tokio::test]
async fn metrics_count_calls_and_the_log() {
    let dir = directory();
    let server = Server::start(dir.path());
    server.json(&["users", "create", "--email", "ada@example.org"]);
    assert_eq!(server.run(&["users", "create", "--email", "ADA@example.org"]).code, Some(1));
    let page = get(server.health, "/metrics").body;
    let method = r#"grpc_service="flotilla.users.v1.UsersService",grpc_method="CreateUser""#;
    for line in [
        format!(r#"grpc_server_handled_total{{{method},grpc_code="OK"}} 1"#),
        format!(r#"grpc_server_handled_total{{{method},grpc_code="AlreadyExists"}} 1"#),
        format!("grpc_server_in_flight{{{method}}} 0"),
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
    assert!(page.contains("fsync"), "{page}");
    assert_eq!(get(server.health, "/healthz").status, 200);
    assert_eq!(get(server.health, "/readyz").body, "ready\n");
}
