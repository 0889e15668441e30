//! What a service must provide to be mounted.

use flotilla_store::Space;
use futures::future::BoxFuture;
use tonic::service::RoutesBuilder;

use crate::Context;

/// A service, as the binary's list of services names it.
#[derive(Clone, Copy)]
pub struct Definition {
    /// Its short name: in config, and later as cluster, listener and virtual host.
    pub name: &'static str,
    /// Its gRPC service's full name, for health and reflection.
    pub grpc_name: &'static str,
    /// The services, by their short names, that must run beside it.
    pub needs: &'static [&'static str],
    /// Its space. Given once, never changed or reused.
    pub space: Space,
    /// Makes it, with everything it may use.
    pub build: fn(Context) -> Built,
}

/// A service that is ready to be mounted.
pub struct Built {
    /// Adds its gRPC service to the routes of the server.
    pub mount: Box<dyn FnOnce(&mut RoutesBuilder) + Send>,
    /// What it does in the background.
    pub tasks: Vec<Task>,
}

/// Where a background task runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// On the server that leads the cell, and on no other at the same time. It
    /// is stopped (dropped) when leadership goes, so its cursor must be written
    /// in the transaction that records its effect.
    OnLeader,
    /// On every server of the cell.
    OnEveryServer,
}

/// A background task. It runs until the server stops; if it returns or panics,
/// it is started again after a pause, and that is logged.
pub struct Task {
    /// For logs: "users.expiry".
    pub name: &'static str,
    /// Where it runs.
    pub placement: Placement,
    /// Starts it.
    pub run: Box<dyn Fn(Context) -> BoxFuture<'static, ()> + Send + Sync>,
}
