//! Subscribers: devices that lose their connections, are started anew, and go on by cursors or acknowledgements.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use flotilla_client::{Client, Delivery, News, SubscribeError, Subscription};
use flotilla_proto::threads::v1::ThreadCursor;
use rand::{Rng, rngs::StdRng};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use super::{
    network::Wire,
    truth::{Truth, hash},
};
use crate::crash::ledger::now;

/// How long the last acknowledgements may take when a device is stopped in order.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);

/// How a device knows where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// By cursors of its own: every event comes once.
    Cursors,
    /// By what the server has stored: what wasn't acknowledged comes again.
    Acks,
}

/// What a device is to do.
pub(crate) struct Plan {
    pub(crate) user: String,
    pub(crate) device: String,
    /// None: all of the user's, also later ones.
    pub(crate) named: Option<Vec<String>>,
    pub(crate) keeps: Keeps,
    /// The bounds of the time between two mishaps, in milliseconds.
    pub(crate) mishaps: (u64, u64),
}

/// One device of one user, from the side of the test.
pub(crate) struct Subscriber {
    user: String,
    device: String,
    named: Option<Vec<String>>,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

/// What happened to devices.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) events: usize,
    /// Came again, because they weren't acknowledged.
    pub(crate) again: usize,
    pub(crate) resumed: usize,
    pub(crate) cut: usize,
    pub(crate) restarted: usize,
}

#[derive(Default)]
struct State {
    history: String,
    logs: BTreeMap<String, Log>,
    /// What the server is certain to have stored: thread, sequence, and since when that is certain.
    stored: Vec<(String, u64, u64)>,
    counts: Counts,
}

/// What was seen of a thread.
#[derive(Default)]
struct Log {
    /// The sequence before the first that was seen.
    before: u64,
    /// Hashes and times of arrival, without a gap.
    seen: Vec<(u64, u64)>,
    /// The last event of the present stream; none: the present process hasn't heard of the thread.
    position: Option<u64>,
}

impl Log {
    fn end(&self) -> u64 {
        self.before + self.seen.len() as u64
    }
}

impl Subscriber {
    /// Starts it; mishaps happen to it until `calm` says otherwise.
    pub(crate) fn start(plan: Plan, wire: Wire, random: StdRng, calm: watch::Receiver<bool>) -> Self {
        let state = Arc::<Mutex<State>>::default();
        let Plan { user, device, named, .. } = &plan;
        let (user, device, named) = (user.clone(), device.clone(), named.clone());
        let client = wire.client().acting_as(&user).expect("an id").on_device(&device).expect("a name");
        let device_of = Device { plan, client, wire, random, calm, state: state.clone() };
        Self { user, device, named, state, task: tokio::spawn(device_of.run()) }
    }

    /// What happened to it so far.
    pub(crate) fn counts(&self) -> Counts {
        locked(&self.state).counts
    }

    /// Fails if it has.
    pub(crate) async fn is_well(&mut self) {
        if self.task.is_finished() {
            (&mut self.task).await.expect("a subscriber that goes on");
        }
    }

    /// Whether it has seen everything of its threads.
    pub(crate) fn has_all(&self, truth: &Truth) -> bool {
        let state = locked(&self.state);
        self.expected(truth)
            .all(|(thread, _, last)| state.logs.get(thread).is_some_and(|log| log.position >= Some(last)))
    }

    /// What it has seen is all of its threads from its joining on, and nothing else.
    pub(crate) fn verify_all(&self, truth: &Truth) {
        let state = locked(&self.state);
        for (thread, joined, last) in self.expected(truth) {
            let log = state.logs.get(thread).unwrap_or_else(|| panic!("{} never saw thread {thread}", self.name()));
            assert_eq!((log.before + 1, log.end()), (joined, last), "{} of thread {thread}", self.name());
        }
        let threads = self.expected(truth).count();
        assert_eq!(state.logs.len(), threads, "{} saw threads that aren't its own", self.name());
        drop(state);
        self.verify(truth, u64::MAX);
    }

    /// What it had seen by a moment is there, and the same.
    pub(crate) fn verify(&self, truth: &Truth, moment: u64) {
        for (thread, log) in &locked(&self.state).logs {
            let hashes = &truth.outbox(thread).hashes;
            for (sequence, (hash, at)) in (log.before + 1..).zip(&log.seen) {
                if *at > moment {
                    break;
                }
                let found = hashes.get(sequence as usize - 1);
                assert!(found.is_some(), "{} saw event {sequence} of {thread} at {at}, and it is gone", self.name());
                assert_eq!(found, Some(hash), "{} saw another event {sequence} of {thread}", self.name());
            }
        }
    }

    /// What it had acknowledged by a moment: device, thread and sequence.
    pub(crate) fn stored(&self, moment: u64) -> Vec<(String, String, u64)> {
        let state = locked(&self.state);
        let certain = state.stored.iter().filter(|(_, _, at)| *at <= moment);
        certain.map(|(thread, sequence, _)| (self.device.clone(), thread.clone(), *sequence)).collect()
    }

    /// What it still lacks, for a person.
    pub(crate) fn lacks(&self, truth: &Truth) -> String {
        let state = locked(&self.state);
        let places = self.expected(truth).map(|(thread, _, last)| {
            let position = state.logs.get(thread).and_then(|log| log.position);
            format!("{thread} {position:?} of {last}")
        });
        format!("{}: {:?}, {:?}", self.name(), state.counts, places.collect::<Vec<_>>())
    }

    /// Its threads, the user's joining, and the last sequence.
    fn expected<'a>(&'a self, truth: &'a Truth) -> impl Iterator<Item = (&'a String, u64, u64)> {
        let wanted = |thread: &&String| self.named.as_ref().is_none_or(|named| named.contains(thread));
        truth.outboxes().filter(move |(thread, _)| wanted(thread)).filter_map(|(thread, outbox)| {
            let joined = outbox.joined.get(&self.user)?;
            Some((thread, *joined, outbox.events.len() as u64))
        })
    }

    fn name(&self) -> String {
        format!("device {} of user {}", self.device, self.user)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The device itself.
struct Device {
    plan: Plan,
    client: Client,
    wire: Wire,
    random: StdRng,
    calm: watch::Receiver<bool>,
    state: Arc<Mutex<State>>,
}

/// How a device ends a subscription.
enum Ending {
    /// As a process that is killed.
    Dropped,
    /// As a process that is asked to stop.
    Closed,
}

impl Device {
    async fn run(mut self) {
        loop {
            let mut subscription = self.subscribe();
            let ending = self.follow(&mut subscription).await;
            let told = match ending {
                Ending::Dropped => false,
                Ending::Closed => subscription.close(CLOSE_LIMIT).await.is_ok(),
            };
            let at = now();
            let mut state = locked(&self.state);
            let State { logs, stored, counts, .. } = &mut *state;
            for (thread, log) in logs {
                if let Some(position) = log.position.take().filter(|position| *position > log.before)
                    && told
                    && self.plan.keeps == Keeps::Acks
                {
                    stored.push((thread.clone(), position, at));
                }
            }
            counts.restarted += 1;
        }
    }

    fn subscribe(&self) -> Subscription {
        let subscription = match &self.plan.named {
            None => Subscription::all(&self.client),
            Some(named) => Subscription::of(&self.client, named.clone()),
        };
        if self.plan.keeps == Keeps::Acks {
            return subscription;
        }
        let state = locked(&self.state);
        let cursors = state.logs.iter().map(|(thread, log)| ThreadCursor {
            thread_id: thread.clone(),
            history: state.history.clone(),
            sequence: log.end(),
        });
        subscription.after(cursors)
    }

    /// Until a mishap ends the subscription.
    async fn follow(&mut self, subscription: &mut Subscription) -> Ending {
        loop {
            let (least, most) = self.plan.mishaps;
            let mishap = Instant::now() + Duration::from_millis(self.random.random_range(least..most));
            let calm = *self.calm.borrow();
            loop {
                tokio::select! {
                    news = subscription.next() => self.take(news, subscription),
                    () = tokio::time::sleep_until(mishap), if !calm => break,
                    _ = self.calm.changed(), if !calm => break,
                }
            }
            match self.random.random_range(0..4) {
                _ if *self.calm.borrow() => {}
                0 => return Ending::Dropped,
                1 => return Ending::Closed,
                _ => {
                    locked(&self.state).counts.cut += 1;
                    self.wire.cut();
                }
            }
        }
    }

    fn take(&self, news: Result<News, SubscribeError>, subscription: &Subscription) {
        let mut state = locked(&self.state);
        match news {
            Ok(News::Started(cursor)) => {
                assert!(
                    state.history.is_empty() || state.history == cursor.history,
                    "{}: another history: {cursor:?}",
                    self.name()
                );
                state.history.clone_from(&cursor.history);
                self.starts(&mut state, &cursor);
            }
            Ok(News::Event(event)) => {
                self.event(&mut state, &event);
                if self.plan.keeps == Keeps::Acks {
                    subscription.ack(&event);
                }
            }
            Ok(News::Resumed) => state.counts.resumed += 1,
            Ok(News::Lost { .. } | News::Quiet) => {}
            Ok(News::Gone { thread_id }) => panic!("{}: gone from {thread_id}", self.name()),
            Ok(News::AckFailed(failure)) => assert!(failure.will_retry, "{}: {failure:?}", self.name()),
            Ok(News::Reset(reset)) => panic!("{}: {reset:?}", self.name()),
            Err(error) => panic!("{}: {error}", self.name()),
        }
    }

    fn starts(&self, state: &mut State, cursor: &ThreadCursor) {
        let ThreadCursor { thread_id: thread, sequence, .. } = cursor;
        let stored = state.stored.iter().filter(|(of, ..)| of == thread).map(|(_, sequence, _)| *sequence).max();
        let Some(log) = state.logs.get_mut(thread) else {
            let log = Log { before: *sequence, seen: Vec::new(), position: Some(*sequence) };
            state.logs.insert(thread.clone(), log);
            return;
        };
        let (least, most) = match (self.plan.keeps, log.position) {
            (Keeps::Cursors, _) => (log.end(), log.end()),
            (Keeps::Acks, Some(position)) => (position, position),
            // The process is new, and what the former ones acknowledged at last may have arrived.
            (Keeps::Acks, None) => (stored.unwrap_or(log.before), log.end()),
        };
        assert!(
            (least..=most).contains(sequence),
            "{}: thread {thread} starts after {sequence}, not after {least} to {most}",
            self.name()
        );
        log.position = Some(*sequence);
    }

    fn event(&self, state: &mut State, event: &Delivery) {
        let (thread, sequence) = (&event.thread_id, event.sequence);
        let Some((log, position)) = state.logs.get_mut(thread).and_then(|log| log.position.map(|at| (log, at))) else {
            panic!("{}: event {sequence} of thread {thread}, which hasn't started", self.name());
        };
        assert_eq!(sequence, position + 1, "{}: the next event of thread {thread}", self.name());
        log.position = Some(sequence);
        let hash = hash(event);
        match log.seen.get((sequence - log.before - 1) as usize) {
            None => {
                log.seen.push((hash, now()));
                state.counts.events += 1;
            }
            Some((former, _)) => {
                assert_eq!(*former, hash, "{}: event {sequence} of {thread} is another one now", self.name());
                state.counts.again += 1;
            }
        }
    }

    fn name(&self) -> String {
        format!("device {} of user {} ({:?})", self.plan.device, self.plan.user, self.plan.keeps)
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
