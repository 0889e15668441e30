//! Which services there are, and what they are given.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use axum::Router;
use flotilla_cluster::Cluster;
use flotilla_kit::{Context, Local, MetricsRegistry, service::Definition, tasks};
use flotilla_proto::{
    FILE_DESCRIPTOR_SET,
    cluster::v1::cluster_service_server::{ClusterServiceServer, SERVICE_NAME as CLUSTER},
};
use flotilla_replica::Replica;
use futures::{FutureExt, future::BoxFuture};
use http::{HeaderMap, StatusCode, Uri, header};
use prost::Message;
use prost_types::{FileDescriptorSet, method_options::IdempotencyLevel};
use tokio::sync::watch;
use tonic::service::{Routes, RoutesBuilder};
use tonic_reflection::server::Builder;

use super::{
    ServeError,
    health::{Health, Phase},
    layers::{admission::MethodKind, refusal},
};
use crate::services;

/// What is counted beside the services, by path.
const INFRASTRUCTURE: [&str; 5] = [
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.health.v1.Health/List",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// The names of all spaces, by their numbers.
fn spaces() -> BTreeMap<u32, &'static str> {
    services::ALL.iter().map(|service| (service.space.number(), service.name)).collect()
}

/// What is served from the start: the cell's own service and health. Others are told to wait.
pub(super) fn early(
    definitions: &[&'static Definition],
    replica: &Replica,
    health: &Health,
    stopping: &watch::Sender<bool>,
) -> Routes {
    let paths: Arc<[String]> = method_paths(definitions).into();
    let starting = move |uri: Uri, headers: HeaderMap| {
        let known = paths.iter().any(|path| path == uri.path());
        async move {
            match known {
                true => refusal::starting(),
                false => elsewhere(uri, headers).await,
            }
        }
    };
    let mut routes = RoutesBuilder::from(Router::new().fallback(starting));
    let cluster = Cluster::new(replica.clone(), spaces(), stopping.subscribe());
    routes.add_service(ClusterServiceServer::new(cluster));
    routes.add_service(health.service(Phase::Draining));
    routes.routes().prepare()
}

/// What is served, and what runs beside it.
pub(super) struct Mounted {
    pub(super) routes: Arc<Routes>,
    pub(super) tasks: BoxFuture<'static, ()>,
}

/// The definitions of the services with these names.
pub(super) fn definitions(names: &[&str]) -> Vec<&'static Definition> {
    services::ALL.iter().filter(|service| names.contains(&service.name)).collect()
}

/// The gRPC names of all that will be mounted and can be healthy.
pub(super) fn grpc_names(definitions: &[&'static Definition]) -> Vec<&'static str> {
    definitions.iter().map(|service| service.grpc_name).chain([CLUSTER]).collect()
}

/// The paths of all methods that will be mounted.
pub(super) fn method_paths(definitions: &[&'static Definition]) -> Vec<String> {
    let names = grpc_names(definitions);
    let mut paths: Vec<String> = INFRASTRUCTURE.iter().map(|&path| path.to_owned()).collect();
    for file in descriptors().file {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            if names.contains(&name.as_str()) {
                paths.extend(service.method.iter().map(|method| format!("/{name}/{}", method.name())));
            }
        }
    }
    paths
}

/// What every method of the contract, mounted or not, is to the server, by path.
pub(super) fn method_kinds() -> HashMap<String, MethodKind> {
    let streams = |path: &str| path.ends_with("/Watch") || path.ends_with("/ServerReflectionInfo");
    let infrastructure =
        INFRASTRUCTURE.iter().map(|&path| (path.to_owned(), MethodKind { streams: streams(path), changes: false }));
    let mut kinds: HashMap<String, MethodKind> = infrastructure.collect();
    for file in descriptors().file {
        for service in &file.service {
            for method in &service.method {
                let level = method.options.as_ref().map(|options| options.idempotency_level());
                let changes = level != Some(IdempotencyLevel::NoSideEffects);
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                kinds.insert(path, MethodKind { streams: method.server_streaming(), changes });
            }
        }
    }
    kinds
}

/// Makes every service and puts it under one router, with the cell's own service, health and
/// reflection.
pub(super) fn mount(
    definitions: &[&'static Definition],
    replica: &Replica,
    health: &Health,
    metrics: &MetricsRegistry,
    stopping: &watch::Sender<bool>,
    services: Local,
) -> Result<Mounted, ServeError> {
    let mut routes = RoutesBuilder::from(Router::new().fallback(elsewhere));
    let mut running = Vec::new();
    for definition in definitions {
        let context = Context::new(replica.clone(), definition, stopping.subscribe(), services.clone());
        let context = context.with_metrics(metrics.clone());
        let built = (definition.build)(context.clone());
        (built.mount)(&mut routes);
        running.push(tasks::run(context, built.tasks));
        tracing::debug!(service = definition.name, "mounted");
    }
    let cluster = Cluster::new(replica.clone(), spaces(), stopping.subscribe());
    routes.add_service(ClusterServiceServer::new(cluster));
    routes.add_service(health.service(Phase::Draining));
    let names = grpc_names(definitions);
    routes.add_service(reflection(&names).build_v1()?);
    // grpcurl before 1.9 and Python's reflection client ask the older one.
    routes.add_service(reflection(&names).build_v1alpha()?);
    let routes = Arc::new(routes.routes().prepare());
    services.set(&routes);
    Ok(Mounted { routes, tasks: futures::future::join_all(running).map(drop).boxed() })
}

fn reflection(names: &[&str]) -> Builder<'static> {
    let builder = Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name("grpc.health.v1.Health");
    names.iter().fold(builder, |builder, &name| builder.with_service_name(name))
}

/// What answers where no service is: a status for gRPC, a sentence for a browser.
async fn elsewhere(uri: Uri, headers: HeaderMap) -> http::Response<tonic::body::Body> {
    let content = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if content.starts_with("application/grpc") {
        let service = uri.path().trim_start_matches('/').split('/').next().unwrap_or_default();
        return refusal::not_here(service);
    }
    let text = "This port speaks gRPC and gRPC-Web. Try: flotilla --help\n";
    let mut response = http::Response::new(tonic::body::Body::new(axum::body::Body::from(text)));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

/// What is compiled in, or nothing: a test of the contract holds that it can be read.
fn descriptors() -> FileDescriptorSet {
    FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_says_which_methods_stream_and_which_change_something() {
        let kinds = method_kinds();
        for (path, streams, changes) in [
            ("/flotilla.users.v1.UsersService/GetUser", false, false),
            ("/flotilla.users.v1.UsersService/CreateUser", false, true),
            ("/flotilla.records.v1.RecordsService/WatchRecords", true, false),
            ("/flotilla.cluster.v1.ClusterService/Backup", true, false),
            ("/grpc.health.v1.Health/Watch", true, false),
        ] {
            assert_eq!(kinds.get(path), Some(&MethodKind { streams, changes }), "{path}");
        }
    }
}
