//! One task that reads the feed, and hands each event, encoded once, to the
//! channel of its thread.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use flotilla_kit::{Call, Change, Context, Error};
use tokio::sync::watch;

use super::{
    channel::{Channel, Subscription},
    metrics::Metrics,
    subscriber::{End, Subscriber},
};
use crate::{
    events,
    tables::{EVENTS, split_event_key},
};

/// Records that are read at once; all who get something of them are woken once.
const READ_AHEAD: usize = 256;
/// Subscriptions of all streams to their threads; each takes about 200 bytes.
const MAX_SUBSCRIPTIONS: usize = 1_000_000;
/// After one to two of these, recent events are forgotten.
const SWEEP: Duration = Duration::from_secs(10);

/// Who is connected, and what they follow.
pub(crate) struct Hub {
    context: Context,
    pub(super) metrics: Metrics,
    state: Mutex<State>,
    /// Whether the task reads the feed.
    running: watch::Sender<bool>,
    next_id: AtomicU64,
    /// Of all streams to their threads.
    subscriptions: AtomicUsize,
    /// Bytes of recent events of all channels.
    recent_bytes: Arc<AtomicUsize>,
}

#[derive(Default)]
struct State {
    /// By thread; only those that somebody subscribes to.
    channels: HashMap<Box<str>, Arc<Channel>>,
    /// The streams of all of a user's threads, by user.
    followers: HashMap<Box<str>, Vec<Arc<Subscriber>>>,
    /// Every stream, by its id.
    streams: HashMap<u64, Arc<Subscriber>>,
    /// The stream of each device, by user and device.
    devices: HashMap<(Box<str>, Box<str>), Arc<Subscriber>>,
}

/// A connected device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Presence {
    /// Since when.
    pub(crate) since: SystemTime,
}

impl Hub {
    pub(crate) fn new(context: Context) -> Arc<Self> {
        Arc::new(Self {
            metrics: Metrics::new(&context),
            context,
            state: Mutex::default(),
            running: watch::Sender::new(false),
            next_id: AtomicU64::new(1),
            subscriptions: AtomicUsize::new(0),
            recent_bytes: Arc::default(),
        })
    }

    /// Reads the feed until the server stops. Streams that are open when it
    /// ends, however it ends, end too: their clients come back and resume.
    pub(crate) async fn run(self: Arc<Self>) {
        let _running = Running(self.clone());
        let error = match self.follow().await {
            Ok(()) => return,
            Err(Error::ShuttingDown) => return,
            Err(error) => error,
        };
        tracing::error!(%error, "push can't follow the log: every stream is ended, and begins anew");
    }

    async fn follow(&self) -> Result<(), Error> {
        // What former runs have kept has a gap before what comes now.
        self.lock().channels.clear();
        self.metrics.threads.set(0);
        let mut feed = self.context.feed(None)?;
        // Streams are opened from here on, and miss nothing.
        self.running.send_replace(true);
        let mut sweep = tokio::time::interval(SWEEP);
        let mut swept = HashMap::new();
        loop {
            tokio::select! {
                biased;
                records = feed.next(READ_AHEAD) => self.publish(&records?)?,
                _ = sweep.tick() => swept = self.sweep(&swept),
            }
        }
    }

    /// Keeps the events of some records, then wakes everybody who gets one.
    fn publish(&self, records: &[Arc<Change>]) -> Result<(), Error> {
        let space = self.context.space().number();
        // In the order of their first news.
        let mut touched: Vec<Arc<Channel>> = Vec::new();
        let mut known = HashSet::new();
        let mut traced = Vec::new();
        for change in records.iter().filter(|change| change.space == space) {
            // Ends when everybody is woken.
            traced.extend(self.context.trace_of(change.revision).map(|trace| flotilla_kit::traced!(trace, "push")));
            for row in &change.rows {
                let (EVENTS, None, Some(after)) = (row.table.as_str(), &row.before, &row.after) else { continue };
                let (thread, sequence) = split_event_key(&row.key)?;
                self.metrics.applied(events::kind(after));
                if let Some(user) = events::joined_user(after)? {
                    for subscriber in self.followers(&user) {
                        subscriber.joined(thread, sequence);
                    }
                }
                let Some(channel) = self.channel(thread) else { continue };
                channel.keep(events::pushed(&row.key, after)?);
                if known.insert(Arc::as_ptr(&channel)) {
                    touched.push(channel);
                }
            }
        }
        let woken: usize = touched.iter().map(|channel| channel.wake()).sum();
        self.metrics.wakeups.inc_by(woken as u64);
        Ok(())
    }

    /// Returns when streams can be opened.
    ///
    /// # Errors
    /// If the call's deadline passes first.
    pub(crate) async fn ready(&self, call: &Call) -> Result<(), Error> {
        let mut running = self.running.subscribe();
        tokio::select! {
            biased;
            () = self.context.until_shutdown() => Err(Error::ShuttingDown),
            running = running.wait_for(|running| *running) => running.map(drop).map_err(|_| Error::ShuttingDown),
            () = tokio::time::sleep_until(call.deadline()) => Err(Error::DeadlineExpired),
        }
    }

    /// The place of a stream among all, in the order in which they are asked for.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// A stream of a device. With `all` it is told of threads that the user is
    /// added to later.
    pub(crate) fn connect(&self, id: u64, user: &str, device: &str, all: bool) -> Arc<Subscriber> {
        let subscriber = Arc::new(Subscriber::new(id, user, device));
        let mut state = self.lock();
        state.streams.insert(id, subscriber.clone());
        if all {
            state.followers.entry(user.into()).or_default().push(subscriber.clone());
        }
        // The task may have ended just now; then nobody would ever end this one.
        if !*self.running.borrow() {
            subscriber.end(End::Restart);
        }
        drop(state);
        self.metrics.subscribers.inc();
        subscriber
    }

    /// A stream is asked for its first message: from now on it is the device's,
    /// and a former one is ended. Not when it connects: a request that its
    /// client has given up may get that far after the one that the client has
    /// made since, and would take over from it; but nobody asks for its messages.
    pub(crate) fn take_over(&self, subscriber: &Arc<Subscriber>) {
        let mut state = self.lock();
        let device = (subscriber.user.clone(), subscriber.device.clone());
        let older = match state.devices.entry(device) {
            Entry::Occupied(current) if current.get().id > subscriber.id => Some(subscriber.clone()),
            Entry::Occupied(mut current) => Some(current.insert(subscriber.clone())),
            Entry::Vacant(place) => {
                place.insert(subscriber.clone());
                None
            }
        };
        drop(state);
        if let Some(older) = older {
            self.metrics.takeovers.inc();
            older.end(End::TakenOver);
        }
    }

    /// A stream is gone.
    pub(crate) fn disconnect(&self, subscriber: &Subscriber) {
        subscriber.clear();
        self.metrics.subscribers.dec();
        let mut state = self.lock();
        state.streams.remove(&subscriber.id);
        let device = (subscriber.user.clone(), subscriber.device.clone());
        if state.devices.get(&device).is_some_and(|current| current.id == subscriber.id) {
            state.devices.remove(&device);
        }
        if let Some(followers) = state.followers.get_mut(&subscriber.user) {
            followers.retain(|follower| follower.id != subscriber.id);
            if followers.is_empty() {
                state.followers.remove(&subscriber.user);
            }
        }
    }

    /// Subscribes to a thread. The subscription must be told where it begins.
    ///
    /// # Errors
    /// If there are as many as memory is meant for.
    pub(crate) fn subscribe(
        &self,
        subscriber: &Arc<Subscriber>,
        thread: &str,
        joined: u64,
    ) -> Result<Arc<Subscription>, Error> {
        let all = self.subscriptions.fetch_add(1, Ordering::Relaxed);
        if all >= MAX_SUBSCRIPTIONS {
            self.subscriptions.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::Overloaded { waiting: all });
        }
        let mut state = self.lock();
        let channel = match state.channels.get(thread) {
            Some(channel) => channel.clone(),
            None => {
                let channel = Arc::new(Channel::new(thread, self.recent_bytes.clone()));
                state.channels.insert(thread.into(), channel.clone());
                self.metrics.threads.inc();
                channel
            }
        };
        // Under the lock, so that nobody removes the channel as empty.
        Ok(Subscription::start(&channel, subscriber, joined))
    }

    /// Ends a subscription.
    pub(crate) fn unsubscribe(&self, subscriber: &Subscriber, channel: &Channel) {
        self.subscriptions.fetch_sub(1, Ordering::Relaxed);
        if channel.remove(subscriber.id) {
            let mut state = self.lock();
            // Another may have taken its place meanwhile.
            let current =
                state.channels.get(channel.thread()).is_some_and(|current| std::ptr::eq(&raw const **current, channel));
            if current && channel.is_empty() {
                state.channels.remove(channel.thread());
                self.metrics.threads.dec();
            }
        }
    }

    /// The devices that a thread is delivered to: user, device.
    pub(crate) fn connected(&self, thread: &str) -> Vec<(String, String, Presence)> {
        let Some(channel) = self.channel(thread) else { return Vec::new() };
        let mut latest = BTreeMap::new();
        for subscriber in channel.subscribers() {
            let device = (subscriber.user.to_string(), subscriber.device.to_string());
            let known: &mut Arc<Subscriber> = latest.entry(device).or_insert_with(|| subscriber.clone());
            // One that was taken over may not have gone yet.
            if known.id < subscriber.id {
                *known = subscriber;
            }
        }
        let presence = |subscriber: &Subscriber| Presence { since: subscriber.since };
        latest.into_iter().map(|((user, device), subscriber)| (user, device, presence(&subscriber))).collect()
    }

    fn sweep(&self, former: &HashMap<Box<str>, u64>) -> HashMap<Box<str>, u64> {
        let channels: Vec<_> = self.lock().channels.values().cloned().collect();
        let swept = channels.iter().map(|channel| {
            let thread = channel.thread();
            (thread.into(), channel.sweep(former.get(thread).copied().unwrap_or(0)))
        });
        swept.collect()
    }

    fn channel(&self, thread: &str) -> Option<Arc<Channel>> {
        self.lock().channels.get(thread).cloned()
    }

    fn followers(&self, user: &str) -> Vec<Arc<Subscriber>> {
        self.lock().followers.get(user).cloned().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held while the task runs.
struct Running(Arc<Hub>);

impl Drop for Running {
    fn drop(&mut self) {
        // First this, then who is there: see `connect`.
        self.0.running.send_replace(false);
        let connected: Vec<_> = self.0.lock().streams.values().cloned().collect();
        connected.iter().for_each(|subscriber| subscriber.end(End::Restart));
    }
}
