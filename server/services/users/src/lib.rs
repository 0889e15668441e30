//! Users: typed resources with a unique email address. The service to copy
//! when you write your own: CONTRIBUTING.md says how.
//!
//! # Layout
//!
//! * [`DEFINITION`]: what the binary's list of services names.
//! * `service`: the gRPC service; takes calls apart and hands them on.
//! * `create`, `get`, `list`, `update`, `delete`, `watch`: one method, one file.
//! * `rules`: what a user's fields may be.
//! * `row`: a user as it is stored, and as it is answered.
//! * `index`: the tables, and the rows by which users are found.
//! * `refusals`: what this service alone refuses.
//!
//! All state is in the service's space; the service itself keeps none, so any
//! number of servers of a cell can run it.

mod create;
mod delete;
mod get;
mod index;
mod list;
mod refusals;
mod row;
mod rules;
mod service;
mod update;
mod watch;

use flotilla_kit::{Built, Context, Definition, Space};
use flotilla_proto::users::v1::users_service_server::{SERVICE_NAME, UsersServiceServer};

/// The service, as the binary mounts it.
pub const DEFINITION: Definition =
    Definition { name: "users", grpc_name: SERVICE_NAME, needs: &[], space: Space::new(1), build };

fn build(context: Context) -> Built {
    let service = UsersServiceServer::new(service::Users::new(context));
    let mount = Box::new(move |routes: &mut tonic::service::RoutesBuilder| {
        routes.add_service(service);
    });
    Built { mount, tasks: Vec::new() }
}
