//! The names of the users and threads that events are about, looked up once.

use std::collections::HashMap;

use flotilla_client::Client;
use flotilla_proto::{
    threads::v1::{Event, GetThreadRequest, Member, MemberChanged, MemberJoined, event::Kind},
    users::v1::GetUserRequest,
};

/// How many names are remembered before all are forgotten.
const REMEMBERED: usize = 10_000;

/// Names by id.
pub(super) struct Names {
    client: Client,
    users: HashMap<String, String>,
    threads: HashMap<String, String>,
}

impl Names {
    pub(super) fn new(client: &Client) -> Self {
        Self { client: client.clone(), users: HashMap::new(), threads: HashMap::new() }
    }

    /// Looks up who and what an event is about.
    pub(super) async fn prepare(&mut self, event: &Event) {
        self.prepare_thread(&event.thread_id).await;
        let other = match &event.kind {
            Some(Kind::MemberLeft(left)) => Some(left.user_id.clone()),
            Some(Kind::MemberJoined(MemberJoined { member: Some(member) })) => {
                self.remember_user(member);
                None
            }
            _ => None,
        };
        for user in [Some(&event.user_id), other.as_ref()].into_iter().flatten() {
            self.prepare_user(user).await;
        }
    }

    /// Takes over the names that an event tells of; they hold after it.
    pub(super) fn learn(&mut self, event: &Event) {
        match &event.kind {
            Some(Kind::ThreadRenamed(renamed)) => {
                self.threads.insert(event.thread_id.clone(), renamed.display_name.clone());
            }
            Some(Kind::MemberChanged(MemberChanged { member: Some(member), .. })) => self.remember_user(member),
            _ => {}
        }
    }

    /// A user's name; the id if it isn't known.
    pub(super) fn user<'a>(&'a self, id: &'a str) -> &'a str {
        self.users.get(id).map_or(id, String::as_str)
    }

    /// A thread's name; the id if it isn't known.
    pub(super) fn thread<'a>(&'a self, id: &'a str) -> &'a str {
        self.threads.get(id).map_or(id, String::as_str)
    }

    /// Looks up a user. One that can't be read is called by the id: no reason to stop.
    pub(super) async fn prepare_user(&mut self, id: &str) {
        if self.users.contains_key(id) || id.is_empty() {
            return;
        }
        if let Ok(user) = self.client.call(GetUserRequest { id: id.to_owned() }).await
            && !user.display_name.is_empty()
        {
            make_room(&mut self.users);
            self.users.insert(id.to_owned(), user.display_name);
        }
    }

    async fn prepare_thread(&mut self, id: &str) {
        if self.threads.contains_key(id) {
            return;
        }
        if let Ok(thread) = self.client.call(GetThreadRequest { id: id.to_owned() }).await {
            make_room(&mut self.threads);
            self.threads.insert(thread.id, thread.display_name);
        }
    }

    fn remember_user(&mut self, member: &Member) {
        if !member.display_name.is_empty() {
            make_room(&mut self.users);
            self.users.insert(member.user_id.clone(), member.display_name.clone());
        }
    }
}

fn make_room(names: &mut HashMap<String, String>) {
    if names.len() >= REMEMBERED {
        names.clear();
    }
}
