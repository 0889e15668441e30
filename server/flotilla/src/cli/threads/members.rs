//! `threads add`, `threads remove` and `threads members`.

use clap::Args;
use flotilla_client::{Client, Pages};
use flotilla_proto::threads::v1::{AddMemberRequest, ListMembersRequest, RemoveMemberRequest};

use super::find;
use crate::cli::{Failure, intent::Intent, output::Output, pages, people, talk};

#[derive(Debug, Args)]
pub(in crate::cli) struct Add {
    /// The thread's id or name
    thread: String,
    /// The user to add
    #[arg(value_name = "USER")]
    member: String,
    #[command(flatten)]
    intent: Intent,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Remove {
    /// The thread's id or name
    thread: String,
    /// The user to remove, who may be you
    #[arg(value_name = "USER")]
    member: String,
    #[command(flatten)]
    intent: Intent,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Members {
    /// The thread's id or name
    thread: String,
    /// At most this many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

impl Add {
    pub(super) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        let thread_id = find::id(client, &self.thread).await?;
        let user_id = people::find(client, "user", &self.member).await?;
        let request = AddMemberRequest { thread_id, user_id, request_id: self.intent.id() };
        output.one(&client.call(request).await?)
    }
}

impl Remove {
    pub(super) async fn run(self, client: &Client) -> Result<(), Failure> {
        let thread_id = find::id(client, &self.thread).await?;
        let user_id = people::find(client, "user", &self.member).await?;
        client.call(RemoveMemberRequest { thread_id, user_id, request_id: self.intent.id() }).await?;
        talk::remark(&format!("removed {} from {}", self.member, self.thread));
        Ok(())
    }
}

impl Members {
    pub(super) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        let thread_id = find::id(client, &self.thread).await?;
        let request = ListMembersRequest { thread_id, ..ListMembersRequest::default() };
        pages::print(Pages::new(client, request), output.list("members"), self.limit).await
    }
}
