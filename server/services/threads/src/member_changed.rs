//! The task that tells threads of renamed and deleted users: each change once
//! in each of the user's threads, whatever crashes in between.
//!
//! It reads users' Watch messages from its cursor on. For each change it first
//! writes the row of `changed` that stands for the user (`people` says why),
//! then goes through the user's threads, some in a transaction: the member's
//! row, the event, and the cursor as one. Each member's row remembers the
//! revision up to which the thread has heard of the user, so whoever begins the
//! change again after a crash passes over the threads that were told already.
//! The cursor moves with the last of them.
//!
//! If users' feed no longer has what comes next, or is another one since a
//! restore, every member's name is compared with the user's.
//!
//! The users may be of another cell: the cursor and every revision of a user
//! are of that cell's history, which has nothing to do with this cell's. Where
//! it is another one than before, revisions that were kept are of the former
//! one, and what they say is forgotten as names are compared.

use std::{ops::Bound, time::Duration};

use flotilla_kit::{Context, Error, TaskCursor, TransactionBuilder, time};
use flotilla_proto::{
    errors::v1::Reason,
    feed::v1::Cursor,
    threads::v1::{Member, MemberChanged, event::Kind},
    users::v1::{
        UserEvent, WatchUsersRequest, user_event, users_service_client::UsersServiceClient, watch_users_response::Item,
    },
};
use prost::Message;
use tokio::time::{Instant, timeout};
use tonic::Streaming;

use crate::{
    events, membership, people,
    row::{self, MemberRow},
    tables::{CHANGED, EVENTS, MEMBERS, MEMBERSHIPS, THREADS, member_key, membership_key, split_ids},
};

/// The task's name.
pub(crate) const TASK: &str = "threads.member_changed";

/// Threads that one transaction tells: each takes up to seven operations.
const THREADS_AT_ONCE: usize = 128;
/// How far the cursor may lag behind changes that concern no thread.
const LAZY_REVISIONS: u64 = 10_000;
/// A stream that is silent for this long is dead: heartbeats come every 20 s.
const SILENCE: Duration = Duration::from_secs(60);
/// How long asking for one user may take, or opening the stream.
const ASK: Duration = Duration::from_secs(30);
/// How often one transaction is tried anew when others get in between.
const ATTEMPTS: usize = 64;

/// Runs until this server no longer leads, or something fails; begun again, it
/// goes on from its cursor.
pub(crate) async fn run(context: Context) {
    match follow(&context).await {
        Ok(()) | Err(Error::ShuttingDown) => {}
        Err(error) => tracing::warn!(%error, "telling threads of changed users is interrupted, and begins again"),
    }
}

async fn follow(context: &Context) -> Result<(), Error> {
    let mut teller = Teller { context, cursor: context.task_cursor(TASK).await? };
    let mut stream = watch(context, teller.place()).await?;
    loop {
        let message = timeout(SILENCE, stream.message()).await;
        let message = message.map_err(|_| Error::internal("users' watch stream is silent"))?;
        let Some(message) = message.map_err(|status| people::error_of(&status))? else { return Ok(()) };
        match message.item {
            Some(Item::Event(event)) => teller.event(event).await?,
            Some(Item::Heartbeat(heartbeat)) => {
                if let Some(place) = heartbeat.cursor {
                    teller.move_lazily(place).await?;
                }
            }
            Some(Item::Reset(reset)) => {
                let reason = reset.reason();
                tracing::warn!(reason = reason.wire_name(), "comparing every member with the users service");
                let place = reset.cursor.ok_or_else(|| Error::internal("a reset without a cursor"))?;
                stream = watch(context, place.clone()).await?;
                teller.compare_all(place).await?;
            }
            None => {}
        }
    }
}

async fn watch(
    context: &Context,
    cursor: Cursor,
) -> Result<Streaming<flotilla_proto::users::v1::WatchUsersResponse>, Error> {
    let mut users = UsersServiceClient::new(context.services());
    let stream = timeout(ASK, users.watch_users(WatchUsersRequest { cursor: Some(cursor) })).await;
    let stream = stream.map_err(|_| Error::internal("users' watch stream doesn't open"))?;
    Ok(stream.map_err(|status| people::error_of(&status))?.into_inner())
}

/// What became of a user.
struct News {
    user_id: String,
    /// The new name; none: the user was deleted.
    display_name: Option<String>,
    /// The revision of the users service at which it was so.
    revision: u64,
    /// Revisions before it are of another history.
    history_is_new: bool,
}

struct Teller<'a> {
    context: &'a Context,
    cursor: TaskCursor,
}

impl Teller<'_> {
    /// Everything up to here has been told. Before the first time, that is the
    /// beginning of the history: what the feed no longer has, a reset tells of.
    fn place(&self) -> Cursor {
        let beginning = || Cursor { history: self.context.history().to_owned(), revision: 0, index: 0 };
        self.cursor.cursor.clone().unwrap_or_else(beginning)
    }

    async fn event(&mut self, event: UserEvent) -> Result<(), Error> {
        let place = event.cursor.clone().ok_or_else(|| Error::internal("a user event without a cursor"))?;
        match News::of(event, place.revision) {
            Some(news) => {
                self.announce(people::bucket(&news.user_id)).await?;
                self.tell(&news, Some(place)).await
            }
            None => self.move_lazily(place).await,
        }
    }

    /// Says to all who are about to add one of the users that a row of
    /// `changed` stands for, that what they know may be outdated.
    async fn announce(&mut self, key: Vec<u8>) -> Result<(), Error> {
        let effect = self.context.transaction().put(CHANGED, key, "");
        self.cursor = self.context.advance(TASK, &self.cursor, self.place(), effect).await?;
        Ok(())
    }

    /// Tells a user's threads, and moves the cursor with the last of them.
    async fn tell(&mut self, news: &News, to: Option<Cursor>) -> Result<(), Error> {
        let mut after = None;
        loop {
            let step = self.some_threads(news, after.as_deref(), to.clone()).await?;
            match step {
                Some(last) => after = Some(last),
                None => return Ok(()),
            }
        }
    }

    /// Tells some of a user's threads, those that come after one. Returns the
    /// last of them, if there are more.
    async fn some_threads(
        &mut self,
        news: &News,
        after: Option<&str>,
        to: Option<Cursor>,
    ) -> Result<Option<String>, Error> {
        for _ in 0..ATTEMPTS {
            let Step { effect, last, changes } = step(self.context, news, after)?;
            let here = self.place();
            let place = match (&last, &to) {
                (None, Some(to)) => to.clone(),
                _ => here.clone(),
            };
            if !changes && place == here {
                return Ok(last);
            }
            match self.context.advance(TASK, &self.cursor, place, effect).await {
                Ok(cursor) => {
                    self.cursor = cursor;
                    return Ok(last);
                }
                // A member came or went, or another server has begun to lead.
                Err(Error::Conflict { .. }) if self.context.task_cursor(TASK).await? == self.cursor => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict { condition: 0 })
    }

    /// Remembers a place if much has passed that concerns no thread. Not each
    /// time: an idle server writes nothing.
    async fn move_lazily(&mut self, place: Cursor) -> Result<(), Error> {
        let here = self.place();
        if place.history != here.history || place.revision >= here.revision + LAZY_REVISIONS {
            let nothing = self.context.transaction();
            self.cursor = self.context.advance(TASK, &self.cursor, place, nothing).await?;
        }
        Ok(())
    }

    /// Compares every member with the users service, then goes on from a place.
    async fn compare_all(&mut self, place: Cursor) -> Result<(), Error> {
        let history_is_new = place.history != self.place().history;
        self.announce(people::EVERYBODY.to_vec()).await?;
        let mut after = None;
        while let Some(user) = next_user(self.context, after.as_deref())? {
            let news = match people::get(self.context, &user, Instant::now() + ASK).await {
                Ok((found, revision)) => {
                    let display_name = Some(found.display_name);
                    News { user_id: user.clone(), display_name, revision, history_is_new }
                }
                Err(error) if error.reason() == Some(Reason::UserNotFound) => {
                    News { user_id: user.clone(), display_name: None, revision: u64::MAX, history_is_new }
                }
                Err(error) => return Err(error),
            };
            self.tell(&news, None).await?;
            after = Some(user);
        }
        let nothing = self.context.transaction();
        self.cursor = self.context.advance(TASK, &self.cursor, place, nothing).await?;
        Ok(())
    }
}

impl News {
    /// What an event means for threads, if anything.
    fn of(event: UserEvent, revision: u64) -> Option<Self> {
        let kind = event.kind();
        let user = event.user?;
        let display_name = match kind {
            user_event::Kind::Updated if event.previous?.display_name != user.display_name => Some(user.display_name),
            user_event::Kind::Deleted => None,
            _ => return None,
        };
        Some(Self { user_id: user.id, display_name, revision, history_is_new: false })
    }
}

struct Step {
    effect: TransactionBuilder,
    /// The last thread looked at, if there are more.
    last: Option<String>,
    /// Whether there is an effect.
    changes: bool,
}

/// What telling some of a user's threads takes.
fn step(context: &Context, news: &News, after: Option<&str>) -> Result<Step, Error> {
    let view = context.rows();
    let user = news.user_id.as_str();
    let mut step = Step { effect: context.transaction(), last: None, changes: false };
    let mut told = 0;
    let (first, end) = (membership_key(user, after.unwrap_or_default()), user_end(user));
    for row in view.scan(MEMBERSHIPS, (Bound::Excluded(first.as_bytes()), Bound::Excluded(end.as_bytes()))) {
        let (key, membership) = row?;
        let (_, thread, _) = split_ids(&key)?;
        if told == THREADS_AT_ONCE {
            return Ok(step);
        }
        step.last = Some(thread.to_owned());
        // Both rows are read at different moments: the member may have left.
        let Some(found) = view.get(MEMBERS, member_key(thread, user).as_bytes())? else { continue };
        let member = row::decode_member_row(&found)?;
        let heard_later = member.heard >= news.revision;
        let same_name = news.display_name.as_ref() == Some(&member.display_name);
        if same_name && heard_later && news.history_is_new {
            // Nothing to tell, but what was heard is no revision of this history.
            told += 1;
            let value = MemberRow { heard: news.revision, ..member }.encode_to_vec();
            step.effect = step.effect.row_at(MEMBERS, member_key(thread, user), found.revision).put(
                MEMBERS,
                member_key(thread, user),
                value,
            );
            step.changes = true;
            continue;
        }
        if same_name || (heard_later && !news.history_is_new) {
            continue;
        }
        told += 1;
        let display_name = news.display_name.clone().unwrap_or(member.display_name);
        let changed = MemberChanged {
            member: Some(Member {
                user_id: user.to_owned(),
                display_name: display_name.clone(),
                join_time: Some(time::timestamp(found.create_time)),
                join_sequence: membership::sequence_of(&membership)?,
            }),
            deleted: news.display_name.is_none(),
        };
        let event = events::encode(&events::event(user, "", Kind::MemberChanged(changed)));
        step.effect = step.effect.row_at(MEMBERS, member_key(thread, user), found.revision).append(
            EVENTS,
            thread.to_owned(),
            event,
        );
        step.changes = true;
        if news.display_name.is_some() {
            let value = MemberRow { display_name, heard: news.revision }.encode_to_vec();
            step.effect = step.effect.put(MEMBERS, member_key(thread, user), value);
            continue;
        }
        if let Some(row) = view.get(THREADS, thread.as_bytes())? {
            let before = row::decode_thread(thread, &row, 0)?;
            let now = row::encode_thread(&before.display_name, before.member_count - 1);
            step.effect =
                step.effect.row_at(THREADS, thread.to_owned(), row.revision).put(THREADS, thread.to_owned(), now);
        }
        step.effect = membership::leave(step.effect, thread, user, "", user);
    }
    step.last = None;
    Ok(step)
}

/// What comes after all of a user's keys: ids are of 0-9 and A-Z.
fn user_end(user: &str) -> String {
    format!("{user}\u{7f}")
}

/// The first user after one who is a member of any thread.
fn next_user(context: &Context, after: Option<&str>) -> Result<Option<String>, Error> {
    let start = after.map(user_end);
    let start = start.as_ref().map_or(Bound::Unbounded, |start| Bound::Excluded(start.as_bytes()));
    match context.rows().scan(MEMBERSHIPS, (start, Bound::Unbounded)).next() {
        Some(row) => Ok(Some(split_ids(&row?.0)?.0.to_owned())),
        None => Ok(None),
    }
}
