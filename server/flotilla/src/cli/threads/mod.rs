//! `flotilla threads …`.
//!
//! * `manage`: create, get, list and rename; `members`: who is in a thread.
//! * `post`, `events`, `watch`, `devices`: what is said, and how far it has come.
//! * `find`: a thread by id or name. `names`, `line`: an event as a person reads it.

mod devices;
mod events;
mod find;
mod line;
mod manage;
mod members;
mod names;
mod post;
mod watch;

use clap::Subcommand;
use flotilla_client::{Client, Target};

use super::{Failure, output::Output, people};

/// A THREAD is an id, or the name of exactly one of your threads. A USER is an id, an address, or
/// exactly one user's display, first or last name; --as takes the same.
#[derive(Debug, Subcommand)]
pub(super) enum Threads {
    /// Create a thread with you and others as members, and print it
    Create(manage::Create),
    /// Print one thread
    Get {
        /// The thread's id or name
        thread: String,
    },
    /// Print your threads
    List(manage::List),
    /// Give a thread another name, and print it
    Rename(manage::Rename),
    /// Make a user a member
    Add(members::Add),
    /// End a user's membership, or your own
    Remove(members::Remove),
    /// Print a thread's members
    Members(members::Members),
    /// Post a message, and print its event
    Post(post::Post),
    /// Print a thread's events
    Events(events::Events),
    /// Print events as they come, and go on where this device was; reconnects and resumes by itself
    Watch(watch::Watch),
    /// Print the devices of a thread's members: who is connected, and how far they have read
    Devices(devices::Devices),
}

impl Threads {
    pub(super) async fn run(self, target: &Target, output: &mut Output) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.run(&connect(target).await?, output).await,
            Self::Get { thread } => output.one(&find::thread(&connect(target).await?, &thread).await?),
            Self::List(list) => list.run(&connect(target).await?, output).await,
            Self::Rename(rename) => rename.run(&connect(target).await?, output).await,
            Self::Add(add) => add.run(&connect(target).await?, output).await,
            Self::Remove(remove) => remove.run(&connect(target).await?).await,
            Self::Members(members) => members.run(&connect(target).await?, output).await,
            Self::Post(post) => post.run(target, output).await,
            Self::Events(events) => events.run(&connect(target).await?, output).await,
            Self::Watch(watch) => Box::pin(watch.run(target, output)).await,
            Self::Devices(devices) => devices.run(&connect(target).await?, output).await,
        }
    }
}

/// Connects, as the user that `--as` names.
async fn connect(target: &Target) -> Result<Client, Failure> {
    let client = Client::connect(&Target { user: None, ..target.clone() }).await?;
    match &target.user {
        Some(name) => {
            let user = people::find(&client, "--as", name).await?;
            Ok(client.acting_as(&user)?)
        }
        None => Ok(client),
    }
}
