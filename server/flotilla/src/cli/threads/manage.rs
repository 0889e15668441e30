//! `threads create`, `threads list` and `threads rename`.

use clap::Args;
use flotilla_client::{Client, Pages};
use flotilla_proto::threads::v1::{CreateThreadRequest, ListThreadsRequest, Thread, UpdateThreadRequest};
use prost_types::FieldMask;

use super::find;
use crate::cli::{Failure, intent::Intent, output::Output, pages, people};

#[derive(Debug, Args)]
pub(in crate::cli) struct Create {
    /// The name to show
    name: String,
    /// A user to be a member beside you; may be given many times
    #[arg(long = "member", value_name = "USER")]
    members: Vec<String>,
    #[command(flatten)]
    intent: Intent,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct List {
    /// At most this many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Rename {
    /// The thread's id or name
    thread: String,
    /// The new name
    name: String,
    /// Change only this version
    #[arg(long)]
    etag: Option<String>,
    #[command(flatten)]
    intent: Intent,
}

impl Create {
    pub(super) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        let mut member_user_ids = Vec::with_capacity(self.members.len());
        for member in &self.members {
            member_user_ids.push(people::find(client, "--member", member).await?);
        }
        let thread = Some(Thread { display_name: self.name, ..Thread::default() });
        let request = CreateThreadRequest { thread, member_user_ids, request_id: self.intent.id() };
        output.one(&client.call(request).await?)
    }
}

impl List {
    pub(super) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        pages::print(Pages::new(client, ListThreadsRequest::default()), output.list("threads"), self.limit).await
    }
}

impl Rename {
    pub(super) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        let thread = Thread {
            id: find::id(client, &self.thread).await?,
            display_name: self.name,
            etag: self.etag.unwrap_or_default(),
            ..Thread::default()
        };
        let request = UpdateThreadRequest {
            thread: Some(thread),
            update_mask: Some(FieldMask { paths: vec!["display_name".to_owned()] }),
            request_id: self.intent.id(),
        };
        output.one(&client.call(request).await?)
    }
}
