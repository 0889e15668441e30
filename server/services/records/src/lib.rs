//! Records: untyped JSON documents in named tables.
//!
//! # Layout
//!
//! * [`DEFINITION`]: what the binary's list of services names.
//! * `service`: the gRPC service; takes calls apart and hands them on.
//! * `put`, `get`, `list`, `delete`, `tables`, `batch`, `watch`: one method,
//!   one file.
//! * `write`: what put, delete and batch have in common: conditions, and what
//!   it means when one doesn't hold.
//! * `deep`: documents too deep to be decoded.
//! * `rules`: what names, ids and documents may be.
//! * `row`: a record as it is stored, and as it is answered.
//!
//! The tables of the service's space are the tables of its users: a table
//! exists while it has a row. All state is in the space.

mod batch;
mod deep;
mod delete;
mod get;
mod list;
mod put;
mod row;
mod rules;
mod service;
mod tables;
mod watch;
mod write;

use flotilla_kit::{Built, Context, Definition, Space};
use flotilla_proto::records::v1::records_service_server::{RecordsServiceServer, SERVICE_NAME};

/// The service, as the binary mounts it.
pub const DEFINITION: Definition =
    Definition { name: "records", grpc_name: SERVICE_NAME, needs: &[], space: Space::new(2), build };

fn build(context: Context) -> Built {
    let service = deep::refused(RecordsServiceServer::new(service::Records::new(context)));
    let mount = Box::new(move |routes: &mut tonic::service::RoutesBuilder| {
        routes.add_service(service);
    });
    Built { mount, tasks: Vec::new() }
}
