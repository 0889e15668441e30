//! Threads: conversations whose every event reaches every device of every
//! member, in order, once, also after a tunnel, a crash or a week away.
//!
//! # Layout
//!
//! * [`DEFINITION`]: what the binary's list of services names.
//! * `service`: the gRPC service; takes calls apart and hands them on.
//! * `create`, `get`, `list`, `update`, `add_member`, `remove_member`,
//!   `list_members`, `post`, `list_events`, `ack`, `devices`: one method, one
//!   file.
//! * `tables`: the tables and their keys. `row`: threads and members as they
//!   are stored. `events`: events as they are stored, and as they travel.
//! * `membership`: who may do what, and the rows that change with it.
//! * `people`: what this service asks the users service.
//! * `member_changed`: the task that tells threads of renamed and deleted users.
//! * `push/`: from the applied log to every subscriber.
//! * `rules`, `refusals`: what a request may hold; what this service alone refuses.
//!
//! Everything that lasts is in the service's space. What `push` keeps in memory
//! can be lost at any moment: a client resumes from its cursors.

mod ack;
mod add_member;
mod create;
mod devices;
mod events;
mod get;
mod list;
mod list_events;
mod list_members;
mod member_changed;
mod membership;
mod people;
mod post;
mod push;
mod refusals;
mod remove_member;
mod row;
mod rules;
mod service;
mod tables;
mod update;

use flotilla_kit::{Built, Context, Definition, Placement, Space, Task};
use flotilla_proto::threads::v1::threads_service_server::SERVICE_NAME;

/// The service, as the binary mounts it.
pub const DEFINITION: Definition =
    Definition { name: "threads", grpc_name: SERVICE_NAME, needs: &["users"], space: Space::new(3), build };

fn build(context: Context) -> Built {
    let hub = push::Hub::new(context.clone());
    let server = push::Server::new(service::Threads::new(context, hub.clone()));
    let tasks = vec![
        Task {
            name: "threads.push",
            placement: Placement::OnEveryServer,
            run: Box::new(move |_| Box::pin(hub.clone().run())),
        },
        Task {
            name: member_changed::TASK,
            placement: Placement::OnLeader,
            run: Box::new(|context| Box::pin(member_changed::run(context))),
        },
    ];
    let mount = Box::new(move |routes: &mut tonic::service::RoutesBuilder| {
        routes.add_service(server);
    });
    Built { mount, tasks }
}
