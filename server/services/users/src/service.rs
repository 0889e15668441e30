//! The gRPC service: takes each call apart, hands it on, and puts the answer
//! together. Nothing is decided here.

use flotilla_kit::{Call, Context};
use flotilla_proto::users::v1::{
    CreateUserRequest, DeleteUserRequest, GetUserRequest, ListUsersRequest, ListUsersResponse, UpdateUserRequest, User,
    WatchUsersRequest, WatchUsersResponse, users_service_server::UsersService,
};
use futures::stream::BoxStream;
use tonic::{Request, Response, Status, async_trait};

use crate::{create, delete, get, list, update, watch};

/// The service over its context.
pub(crate) struct Users {
    context: Context,
}

impl Users {
    pub(crate) fn new(context: Context) -> Self {
        Self { context }
    }
}

#[async_trait]
impl UsersService for Users {
    async fn create_user(&self, request: Request<CreateUserRequest>) -> Result<Response<User>, Status> {
        let (call, request) = Call::of("users.CreateUser", request)?;
        let (revision, user) = create::create(&self.context, &call, request).await?;
        Ok(self.context.reply(revision, user))
    }

    async fn get_user(&self, request: Request<GetUserRequest>) -> Result<Response<User>, Status> {
        let (call, request) = Call::of("users.GetUser", request)?;
        let (revision, user) = get::get(&self.context, &call, request).await?;
        Ok(self.context.reply(revision, user))
    }

    async fn list_users(&self, request: Request<ListUsersRequest>) -> Result<Response<ListUsersResponse>, Status> {
        let (call, request) = Call::of("users.ListUsers", request)?;
        let (revision, page) = list::list(&self.context, &call, request).await?;
        Ok(self.context.reply(revision, page))
    }

    async fn update_user(&self, request: Request<UpdateUserRequest>) -> Result<Response<User>, Status> {
        let (call, request) = Call::of("users.UpdateUser", request)?;
        let (revision, user) = update::update(&self.context, &call, request).await?;
        Ok(self.context.reply(revision, user))
    }

    async fn delete_user(&self, request: Request<DeleteUserRequest>) -> Result<Response<()>, Status> {
        let (call, request) = Call::of("users.DeleteUser", request)?;
        let revision = delete::delete(&self.context, &call, request).await?;
        Ok(self.context.reply(revision, ()))
    }

    type WatchUsersStream = BoxStream<'static, Result<WatchUsersResponse, Status>>;

    async fn watch_users(
        &self,
        request: Request<WatchUsersRequest>,
    ) -> Result<Response<Self::WatchUsersStream>, Status> {
        let (call, request) = Call::of("users.WatchUsers", request)?;
        let stream = watch::watch(&self.context, &call, request).await?;
        Ok(Response::new(stream))
    }
}
