//! The stream itself, pulled by the transport: what isn't taken isn't read.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::{Duration, Instant as StdInstant},
};

use bytes::Bytes;
use flotilla_kit::{Context, Error};
use flotilla_proto::threads::v1::ThreadCursor;
use futures::Stream;
use tokio::time::{Instant, Sleep};

use super::{
    Hub,
    channel::{Next, Subscription},
    open,
    subscriber::{End, Found, MAX_JOINED, Subscriber},
};
use crate::{
    events::{self, Membership, Pushed},
    refusals,
    tables::{EVENTS, event_key},
};

/// The longest silence of a stream.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// Events that are read from the outbox at once …
const READ_EVENTS: usize = 64;
/// … and about how many bytes of them.
const READ_BYTES: usize = 64 * 1024;
/// Events of one thread after which the others have their turn.
const TURN: usize = 64;

/// A stream of encoded `SubscribeResponse`s. Dropped, it is disconnected.
pub(crate) struct Pushing {
    context: Context,
    hub: Arc<Hub>,
    subscriber: Arc<Subscriber>,
    /// What each thread starts with.
    opening: VecDeque<Bytes>,
    threads: HashMap<Box<str>, Subscribed>,
    /// The thread whose events are being taken.
    current: Option<Current>,
    heartbeat: Pin<Box<Sleep>>,
    /// When the last message went.
    sent: Instant,
    /// Events and bytes that were handed over and aren't counted yet: counters
    /// that all streams share are not for every event.
    uncounted: (u64, u64),
    /// Whether it reads the outbox, to catch up.
    behind: bool,
    /// It was asked for a message, and is the device's stream.
    begun: bool,
    ended: bool,
}

struct Subscribed {
    subscription: Arc<Subscription>,
    /// The user was removed, and added again by these events, which haven't come
    /// up yet.
    again: VecDeque<u64>,
}

struct Current {
    subscription: Arc<Subscription>,
    /// Read from the outbox, because the channel no longer has it.
    read: VecDeque<Pushed>,
    turn: usize,
}

impl Pushing {
    pub(super) fn new(context: Context, hub: Arc<Hub>, subscriber: Arc<Subscriber>) -> Self {
        Self {
            context,
            hub,
            subscriber,
            opening: VecDeque::new(),
            threads: HashMap::new(),
            current: None,
            heartbeat: Box::pin(tokio::time::sleep(HEARTBEAT)),
            sent: Instant::now(),
            uncounted: (0, 0),
            behind: false,
            begun: false,
            ended: false,
        }
    }

    /// Subscribes to a thread that the user joined by an event.
    pub(super) fn subscribe(&mut self, thread: &str, joined: u64) -> Result<Arc<Subscription>, Error> {
        let subscription = self.hub.subscribe(&self.subscriber, thread, joined)?;
        self.threads.insert(thread.into(), Subscribed { subscription: subscription.clone(), again: VecDeque::new() });
        Ok(subscription)
    }

    /// The user is no member after all.
    pub(super) fn unsubscribe(&mut self, thread: &str) {
        if let Some(subscribed) = self.threads.remove(thread) {
            self.hub.unsubscribe(&self.subscriber, &subscribed.subscription.channel);
        }
    }

    pub(super) fn open_with(&mut self, opening: VecDeque<Bytes>) {
        self.opening = opening;
    }

    /// The next message, if there is one now.
    fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(message) = self.opening.pop_front() {
                if self.opening.is_empty() {
                    self.opening = VecDeque::new();
                }
                return Ok(Some(message));
            }
            if let Some(event) = self.next_event()? {
                return Ok(Some(event));
            }
            match self.subscriber.look() {
                None => return Ok(None),
                Some(Found::End(End::TakenOver)) => {
                    return Err(refusals::taken_over(&self.subscriber.user, &self.subscriber.device));
                }
                Some(Found::End(End::Restart)) => return Err(Error::ShuttingDown),
                Some(Found::End(End::Behind)) => return Err(Error::Overloaded { waiting: MAX_JOINED }),
                Some(Found::Joined(thread, sequence)) => self.joined(&thread, sequence)?,
                Some(Found::News(subscription)) => {
                    subscription.taken();
                    // It may have ended while it waited here.
                    let thread = self.threads.get(subscription.channel.thread());
                    if thread.is_none_or(|thread| !Arc::ptr_eq(&thread.subscription, &subscription)) {
                        continue;
                    }
                    self.current = Some(Current { subscription, read: VecDeque::new(), turn: 0 });
                }
            }
        }
    }

    /// The next event of the current thread; none when it has no more, or has
    /// had its turn.
    fn next_event(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(current) = &mut self.current else { return Ok(None) };
        if current.turn == TURN {
            Subscription::queue(&current.subscription);
            self.current = None;
            return Ok(None);
        }
        let Some((event, came)) = current.next(&self.context)? else {
            self.current = None;
            self.is_behind(false);
            return Ok(None);
        };
        if let (0, Some(came), true) = (current.turn, came, event.sequence.is_multiple_of(16)) {
            self.hub.metrics.delayed(came.elapsed());
        }
        self.uncounted.0 += 1;
        self.uncounted.1 += event.bytes.len() as u64;
        current.turn += 1;
        current.subscription.go_to(event.sequence + 1);
        let left = matches!(&event.membership, Some(Membership::Left(user)) if **user == *self.subscriber.user);
        if left {
            let subscription = current.subscription.clone();
            self.current = None;
            self.left(&subscription, event.sequence);
        }
        self.is_behind(came.is_none() && self.current.is_some());
        Ok(Some(event.bytes))
    }

    fn count(&mut self) {
        let (events, bytes) = std::mem::take(&mut self.uncounted);
        if events > 0 {
            self.hub.metrics.delivered(events, bytes);
        }
    }

    fn is_behind(&mut self, behind: bool) {
        if behind != self.behind {
            self.behind = behind;
            self.hub.metrics.behind.inc_by(if behind { 1 } else { -1 });
        }
    }

    /// The user was removed by an event: nothing follows, unless they are a
    /// member again. What happened in between is not for them.
    fn left(&mut self, subscription: &Arc<Subscription>, at: u64) {
        let thread = subscription.channel.thread();
        let joined = Some(subscription.joined()).filter(|joined| *joined > at);
        let next = || {
            let again = &mut self.threads.get_mut(thread)?.again;
            again.retain(|joined| *joined > at);
            again.pop_front()
        };
        match joined.or_else(next) {
            Some(again) => self.restart(subscription, again),
            None => {
                self.unsubscribe(thread);
                // Whoever named it alone learns at once that there is nothing to wait for.
                if self.threads.is_empty() {
                    self.opening.push_back(open::heartbeat());
                }
            }
        }
    }

    /// The user was added to a thread.
    fn joined(&mut self, thread: &str, sequence: u64) -> Result<(), Error> {
        match self.threads.get_mut(thread) {
            // Found by the scan at the beginning.
            Some(subscribed) if subscribed.subscription.joined() >= sequence => {}
            // The event of the removal is still to come on this stream.
            Some(subscribed) => subscribed.again.push_back(sequence),
            None => {
                let subscription = self.subscribe(thread, sequence)?;
                self.restart(&subscription, sequence);
            }
        }
        Ok(())
    }

    /// Starts a thread with the event of the joining.
    fn restart(&mut self, subscription: &Arc<Subscription>, joined: u64) {
        subscription.joins_again(joined);
        subscription.go_to(joined);
        Subscription::queue(subscription);
        let thread_id = subscription.channel.thread().to_owned();
        let history = self.context.history().to_owned();
        self.opening.push_back(open::started(ThreadCursor { thread_id, history, sequence: joined - 1 }));
    }
}

impl Current {
    /// The next event; when it came, if it is one of the channel's.
    fn next(&mut self, context: &Context) -> Result<Option<(Pushed, Option<StdInstant>)>, Error> {
        if let Some(event) = self.read.pop_front() {
            return Ok(Some((event, None)));
        }
        let (channel, next) = (&self.subscription.channel, self.subscription.next());
        match channel.next(next, false) {
            Next::Event(event, came) => return Ok(Some((event, Some(came)))),
            Next::Nothing => return Ok(None),
            Next::InOutbox => {}
        }
        self.read = read(context, channel.thread(), next)?;
        match self.read.pop_front() {
            Some(event) => Ok(Some((event, None))),
            // The channel may have got one since.
            None => match channel.next(next, true) {
                Next::Event(event, came) => Ok(Some((event, Some(came)))),
                Next::Nothing | Next::InOutbox => Ok(None),
            },
        }
    }
}

/// Some events of a thread's outbox, from a sequence on.
fn read(context: &Context, thread: &str, from: u64) -> Result<VecDeque<Pushed>, Error> {
    use std::ops::Bound;
    let (first, last) = (event_key(thread, from), event_key(thread, u64::MAX));
    let rows = context.rows().scan(EVENTS, (Bound::Included(&first[..]), Bound::Included(&last[..])));
    let (mut events, mut bytes) = (VecDeque::new(), 0);
    for row in rows.take(READ_EVENTS) {
        let (key, row) = row?;
        let event = events::pushed(&key, &row)?;
        bytes += event.bytes.len();
        events.push_back(event);
        if bytes >= READ_BYTES {
            break;
        }
    }
    Ok(events)
}

impl Stream for Pushing {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        if !this.begun {
            this.begun = true;
            this.hub.take_over(&this.subscriber);
        }
        // First this, then the look: news in between wake.
        this.subscriber.register(cx.waker());
        match this.next() {
            Ok(Some(message)) => {
                this.sent = Instant::now();
                return Poll::Ready(Some(Ok(message)));
            }
            Ok(None) => this.count(),
            Err(error) => {
                this.ended = true;
                return Poll::Ready(Some(Err(error)));
            }
        }
        loop {
            if this.heartbeat.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            // The timer isn't moved with every message, only when it has run out.
            let due = this.sent + HEARTBEAT;
            if due <= Instant::now() {
                this.sent = Instant::now();
                this.heartbeat.as_mut().reset(this.sent + HEARTBEAT);
                return Poll::Ready(Some(Ok(open::heartbeat())));
            }
            this.heartbeat.as_mut().reset(due);
        }
    }
}

impl Drop for Pushing {
    fn drop(&mut self) {
        for subscribed in self.threads.values() {
            self.hub.unsubscribe(&self.subscriber, &subscribed.subscription.channel);
        }
        self.hub.disconnect(&self.subscriber);
        self.count();
        self.is_behind(false);
    }
}
