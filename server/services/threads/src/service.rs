//! The gRPC service: takes each call apart, hands it on, and puts the answer
//! together. Nothing is decided here.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_kit::{Call, Context};
use flotilla_proto::threads::v1::{
    AckRequest, AckResponse, AddMemberRequest, CreateThreadRequest, Event, GetThreadRequest, ListDevicesRequest,
    ListDevicesResponse, ListEventsRequest, ListEventsResponse, ListMembersRequest, ListMembersResponse,
    ListThreadsRequest, ListThreadsResponse, Member, PostMessageRequest, RemoveMemberRequest, SubscribeRequest,
    SubscribeResponse, Thread, UpdateThreadRequest, threads_service_server::ThreadsService,
};
use futures::{
    StreamExt,
    stream::{BoxStream, Stream},
};
use prost::Message;
use tonic::{Request, Response, Status, async_trait};

use crate::{
    ack, add_member, create, devices, get, list, list_events, list_members,
    membership::Turns,
    post,
    push::{self, Hub},
    remove_member, update,
};

/// The service over its context. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Threads {
    context: Context,
    hub: Arc<Hub>,
    turns: Arc<Turns>,
}

impl Threads {
    pub(crate) fn new(context: Context, hub: Arc<Hub>) -> Self {
        Self { context, hub, turns: Arc::new(Turns::new()) }
    }

    /// Subscribe, as encoded messages.
    pub(crate) async fn push(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<impl Stream<Item = Result<Bytes, Status>> + Send + use<>, Status> {
        let (call, request) = Call::of("threads.Subscribe", request)?;
        let stream = push::open(&self.context, &self.hub, &call, request).await?;
        Ok(stream.map(|message| message.map_err(Status::from)))
    }
}

#[async_trait]
impl ThreadsService for Threads {
    async fn create_thread(&self, request: Request<CreateThreadRequest>) -> Result<Response<Thread>, Status> {
        let (call, request) = Call::of("threads.CreateThread", request)?;
        let (revision, thread) = create::create(&self.context, &call, request).await?;
        Ok(self.context.reply(revision, thread))
    }

    async fn get_thread(&self, request: Request<GetThreadRequest>) -> Result<Response<Thread>, Status> {
        let (call, request) = Call::of("threads.GetThread", request)?;
        let (revision, thread) = get::get(&self.context, &call, request).await?;
        Ok(self.context.reply(revision, thread))
    }

    async fn list_threads(
        &self,
        request: Request<ListThreadsRequest>,
    ) -> Result<Response<ListThreadsResponse>, Status> {
        let (call, request) = Call::of("threads.ListThreads", request)?;
        let (revision, page) = list::list(&self.context, &call, request).await?;
        Ok(self.context.reply(revision, page))
    }

    async fn update_thread(&self, request: Request<UpdateThreadRequest>) -> Result<Response<Thread>, Status> {
        let (call, request) = Call::of("threads.UpdateThread", request)?;
        let (revision, thread) = update::update(&self.context, &call, request).await?;
        Ok(self.context.reply(revision, thread))
    }

    async fn add_member(&self, request: Request<AddMemberRequest>) -> Result<Response<Member>, Status> {
        let (call, request) = Call::of("threads.AddMember", request)?;
        let (revision, member) = add_member::add(&self.context, &self.turns, &call, request).await?;
        Ok(self.context.reply(revision, member))
    }

    async fn remove_member(&self, request: Request<RemoveMemberRequest>) -> Result<Response<()>, Status> {
        let (call, request) = Call::of("threads.RemoveMember", request)?;
        let revision = remove_member::remove(&self.context, &self.turns, &call, request).await?;
        Ok(self.context.reply(revision, ()))
    }

    async fn list_members(
        &self,
        request: Request<ListMembersRequest>,
    ) -> Result<Response<ListMembersResponse>, Status> {
        let (call, request) = Call::of("threads.ListMembers", request)?;
        let (revision, page) = list_members::list(&self.context, &call, request).await?;
        Ok(self.context.reply(revision, page))
    }

    async fn post_message(&self, request: Request<PostMessageRequest>) -> Result<Response<Event>, Status> {
        let (call, request) = Call::of("threads.PostMessage", request)?;
        let (revision, event) = post::post(&self.context, &call, request).await?;
        Ok(self.context.reply(revision, event))
    }

    async fn list_events(&self, request: Request<ListEventsRequest>) -> Result<Response<ListEventsResponse>, Status> {
        let (call, request) = Call::of("threads.ListEvents", request)?;
        let (revision, page) = list_events::list(&self.context, &call, request).await?;
        Ok(self.context.reply(revision, page))
    }

    type SubscribeStream = BoxStream<'static, Result<SubscribeResponse, Status>>;

    /// For whoever mounts the generated server; `push::server` stands before it.
    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let decode =
            |bytes: Bytes| SubscribeResponse::decode(bytes).map_err(|error| Status::internal(error.to_string()));
        let messages = self.push(request).await?.map(move |message| message.and_then(decode));
        Ok(Response::new(messages.boxed()))
    }

    async fn ack(&self, request: Request<AckRequest>) -> Result<Response<AckResponse>, Status> {
        let (call, request) = Call::of("threads.Ack", request)?;
        let (revision, answer) = ack::ack(&self.context, &call, request).await?;
        Ok(self.context.reply(revision, answer))
    }

    async fn list_devices(
        &self,
        request: Request<ListDevicesRequest>,
    ) -> Result<Response<ListDevicesResponse>, Status> {
        let (call, request) = Call::of("threads.ListDevices", request)?;
        let (revision, page) = devices::list(&self.context, &self.hub, &call, request).await?;
        Ok(self.context.reply(revision, page))
    }
}
