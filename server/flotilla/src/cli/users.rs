//! `flotilla users …`.

use clap::{Args, Subcommand};
use flotilla_client::{Client, Pages, Target, watch as streams};
use flotilla_proto::users::v1::{
    CreateUserRequest, DeleteUserRequest, GetUserRequest, ListUsersRequest, UpdateUserRequest, User, UserEvent,
    user_event::Kind,
};
use prost_types::FieldMask;

use super::{
    Failure,
    intent::Intent,
    output::Output,
    pages,
    row::time,
    talk,
    watch::{self, WatchFlags, Watched},
};

#[derive(Debug, Subcommand)]
pub(super) enum Users {
    /// Create a user and print it
    Create(Create),
    /// Print one user
    Get {
        /// The user's id
        id: String,
    },
    /// Print users, all or those that match
    List(List),
    /// Change the fields that are given, and print the user
    Update(Update),
    /// Delete a user for good
    Delete(Delete),
    /// Print changes as they happen; reconnects and resumes by itself
    Watch(WatchFlags),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// The email address, unique without regard to case
    #[arg(long)]
    email: String,
    #[command(flatten)]
    fields: Fields,
    #[command(flatten)]
    intent: Intent,
}

#[derive(Debug, Args)]
struct Fields {
    /// Given name
    #[arg(long, value_name = "NAME")]
    first_name: Option<String>,
    /// Family name
    #[arg(long, value_name = "NAME")]
    last_name: Option<String>,
    /// The name to show [default at creation: first and last name]
    #[arg(long, value_name = "NAME")]
    display_name: Option<String>,
    /// A mark of the application; may be given many times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only the user with this address
    #[arg(long)]
    email: Option<String>,
    /// Only users one of whose names begins with this
    #[arg(long, value_name = "PREFIX")]
    name_prefix: Option<String>,
    /// At most this many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

#[derive(Debug, Args)]
pub(super) struct Update {
    /// The user's id
    id: String,
    /// The new address
    #[arg(long)]
    email: Option<String>,
    #[command(flatten)]
    fields: Fields,
    /// Remove all labels
    #[arg(long, conflicts_with = "labels")]
    no_labels: bool,
    /// Change only this version
    #[arg(long)]
    etag: Option<String>,
    #[command(flatten)]
    intent: Intent,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    /// The user's id
    id: String,
    /// Delete only this version
    #[arg(long)]
    etag: Option<String>,
    /// A user who doesn't exist is a success
    #[arg(long)]
    allow_missing: bool,
    #[command(flatten)]
    intent: Intent,
}

impl Users {
    pub(super) async fn run(self, target: &Target, output: &mut Output) -> Result<(), Failure> {
        if let Self::Watch(flags) = self {
            return watch::run(target, output, flags, UserChanges).await;
        }
        let client = Client::connect(target).await?;
        match self {
            Self::Create(create) => output.one(&create.call(&client).await?),
            Self::Get { id } => output.one(&client.call(GetUserRequest { id }).await?),
            Self::List(list) => list.call(&client, output).await,
            Self::Update(update) => output.one(&update.call(&client).await?),
            Self::Delete(delete) => delete.call(&client).await,
            Self::Watch(_) => Ok(()),
        }
    }
}

impl Create {
    async fn call(self, client: &Client) -> Result<User, Failure> {
        let fields = self.fields;
        let user = User {
            email: self.email,
            first_name: fields.first_name.unwrap_or_default(),
            last_name: fields.last_name.unwrap_or_default(),
            display_name: fields.display_name.unwrap_or_default(),
            labels: fields.labels.into_iter().collect(),
            ..User::default()
        };
        Ok(client.call(CreateUserRequest { user: Some(user), request_id: self.intent.id() }).await?)
    }
}

impl List {
    async fn call(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        let filter = ListUsersRequest {
            email: self.email.unwrap_or_default(),
            name_prefix: self.name_prefix.unwrap_or_default(),
            ..ListUsersRequest::default()
        };
        pages::print(Pages::new(client, filter), output.list("users"), self.limit).await
    }
}

impl Update {
    async fn call(self, client: &Client) -> Result<User, Failure> {
        let mut paths = Vec::new();
        let mut given = |name: &str, value: Option<String>| {
            paths.extend(value.is_some().then(|| name.to_owned()));
            value.unwrap_or_default()
        };
        let user = User {
            id: self.id,
            email: given("email", self.email),
            first_name: given("first_name", self.fields.first_name),
            last_name: given("last_name", self.fields.last_name),
            display_name: given("display_name", self.fields.display_name),
            labels: self.fields.labels.into_iter().collect(),
            etag: self.etag.unwrap_or_default(),
            ..User::default()
        };
        if self.no_labels || !user.labels.is_empty() {
            paths.push("labels".to_owned());
        }
        if paths.is_empty() {
            return Err(Failure::Argument {
                argument: "users update".to_owned(),
                reason: "nothing to change: give --email, --first-name, --last-name, --display-name, --label or \
                         --no-labels (an empty text clears a field)"
                    .to_owned(),
            });
        }
        let request = UpdateUserRequest {
            user: Some(user),
            update_mask: Some(FieldMask { paths }),
            request_id: self.intent.id(),
        };
        Ok(client.call(request).await?)
    }
}

impl Delete {
    async fn call(self, client: &Client) -> Result<(), Failure> {
        let request = DeleteUserRequest {
            id: self.id.clone(),
            etag: self.etag.unwrap_or_default(),
            allow_missing: self.allow_missing,
            request_id: self.intent.id(),
        };
        client.call(request).await?;
        talk::remark(&format!("deleted {}", self.id));
        Ok(())
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// What `users watch` needs to know.
struct UserChanges;

impl Watched for UserChanges {
    type Watch = streams::Users;
    type Pages = Pages<ListUsersRequest>;

    fn watch(&self) -> streams::Users {
        streams::Users
    }

    fn resource(event: &UserEvent) -> Option<&User> {
        event.user.as_ref()
    }

    fn id(user: &User) -> String {
        user.id.clone()
    }

    fn line(event: &UserEvent) -> String {
        let kind = match event.kind() {
            Kind::Created => "created",
            Kind::Updated => "updated",
            Kind::Deleted => "deleted",
            Kind::Unspecified => "changed",
        };
        let user = event.user.clone().unwrap_or_default();
        format!("{}  {kind}  {}", time(event.time.as_ref()), Self::summary(&user))
    }

    fn summary(user: &User) -> String {
        let labels: String = user.labels.iter().map(|(key, value)| format!("  {key}={value}")).collect();
        format!("{}  {}  {}{labels}", user.id, user.email, user.display_name)
    }

    fn pages(&self, client: &Client) -> Self::Pages {
        Pages::new(client, ListUsersRequest::default())
    }
}
