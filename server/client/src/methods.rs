//! Which message calls which method: [`Client::call`](crate::Client::call) takes each of these.

use std::future::Future;

use flotilla_proto::{
    cluster::v1::{self as cluster, cluster_service_client::ClusterServiceClient},
    records::v1::{self as records, records_service_client::RecordsServiceClient},
    threads::v1::{self as threads, threads_service_client::ThreadsServiceClient},
    users::v1::{self as users, users_service_client::UsersServiceClient},
};
use tonic::{Request, Response, Status, transport::Channel};

use crate::{
    cell::{Does, Kind},
    client::{MAX_MESSAGE, request_id},
};

/// The request of a method that answers with one message.
pub trait Method: Clone + Send + 'static {
    /// What it answers.
    type Answer: Send;

    /// The short name of its service; empty if every server answers, whatever services it runs.
    const SERVICE: &'static str;

    /// It changes something, so it goes to the leader of a cell of several servers.
    const CHANGES: bool = false;

    /// Gives a request that changes something a request id, if it has none.
    fn prepare(&mut self) {}

    /// Makes the call once.
    fn send(
        channel: Channel,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send;
}

/// What decides where a method's calls go.
pub(crate) trait Directed: Method {
    fn kind() -> Kind {
        Kind { service: Self::SERVICE, does: if Self::CHANGES { Does::Change } else { Does::Read } }
    }
}

impl<M: Method> Directed for M {}

/// Lists methods of a service; those with `changes` have a request id.
macro_rules! methods {
    ($service:literal, $client:ident { $($request:ty => $method:ident -> $answer:ty $(, $changes:ident)?;)* }) => {
        $(impl Method for $request {
            type Answer = $answer;

            const SERVICE: &'static str = $service;

            $(methods!(@$changes);)?

            async fn send(channel: Channel, request: Request<Self>) -> Result<Response<$answer>, Status> {
                $client::new(channel).max_decoding_message_size(MAX_MESSAGE).$method(request).await
            }
        })*
    };
    (@changes) => {
        const CHANGES: bool = true;

        fn prepare(&mut self) {
            if self.request_id.is_empty() {
                self.request_id = request_id();
            }
        }
    };
}

methods!("users", UsersServiceClient {
    users::CreateUserRequest => create_user -> users::User, changes;
    users::GetUserRequest => get_user -> users::User;
    users::ListUsersRequest => list_users -> users::ListUsersResponse;
    users::UpdateUserRequest => update_user -> users::User, changes;
    users::DeleteUserRequest => delete_user -> (), changes;
});

methods!("records", RecordsServiceClient {
    records::PutRecordRequest => put_record -> records::Record, changes;
    records::GetRecordRequest => get_record -> records::Record;
    records::ListRecordsRequest => list_records -> records::ListRecordsResponse;
    records::DeleteRecordRequest => delete_record -> (), changes;
    records::ListTablesRequest => list_tables -> records::ListTablesResponse;
    records::BatchWriteRequest => batch_write -> records::BatchWriteResponse, changes;
});

methods!("threads", ThreadsServiceClient {
    threads::CreateThreadRequest => create_thread -> threads::Thread, changes;
    threads::GetThreadRequest => get_thread -> threads::Thread;
    threads::ListThreadsRequest => list_threads -> threads::ListThreadsResponse;
    threads::UpdateThreadRequest => update_thread -> threads::Thread, changes;
    threads::AddMemberRequest => add_member -> threads::Member, changes;
    threads::RemoveMemberRequest => remove_member -> (), changes;
    threads::ListMembersRequest => list_members -> threads::ListMembersResponse;
    threads::PostMessageRequest => post_message -> threads::Event, changes;
    threads::ListEventsRequest => list_events -> threads::ListEventsResponse;
    threads::AckRequest => ack -> threads::AckResponse, changes;
    threads::ListDevicesRequest => list_devices -> threads::ListDevicesResponse;
});

methods!("", ClusterServiceClient {
    cluster::FormCellRequest => form_cell -> cluster::FormCellResponse, changes;
    cluster::GetServersRequest => get_servers -> cluster::GetServersResponse;
    cluster::AddServerRequest => add_server -> cluster::Server, changes;
    cluster::RemoveServerRequest => remove_server -> (), changes;
    cluster::TransferLeadershipRequest => transfer_leadership -> cluster::TransferLeadershipResponse, changes;
    cluster::CheckRequest => check -> cluster::CheckResponse, changes;
});
