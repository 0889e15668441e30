//! Applies log entries: transactions to rows, and what changed to the feed.
//!
//! What an entry does depends on the entries before it and on nothing else: no
//! clock, no randomness and no configuration is read here.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use flotilla_proto::storage::v1::{self as storage, Applied, Change, Transaction, WindowEntry, command};
use flotilla_store::{Draft, Outcome as Drafted, PointInTime, Store, StoreError};
use futures::{Stream, TryStreamExt};
use openraft::{
    OptionalSend, RaftSnapshotBuilder,
    alias::{SnapshotMetaOf, SnapshotOf},
    storage::{EntryResponder, RaftStateMachine},
};
use prost::Message;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::{
    CheckReport, Committed, Metrics, SpaceCheck,
    batcher::{Outcome, Outcomes},
    changes::Changes,
    checks::Checks,
    feed::{Published, Readers},
    log::Log,
    raft::{
        Command, LogId, Payload, StoredMembership, TypeConfig, log_id_from_storage, log_id_to_storage,
        membership_from_storage, membership_to_storage,
    },
    snapshot::{SnapshotError, SnapshotFile, Snapshots},
    stores::Stores,
    trace::Traces,
    window::Window,
};

/// What the log's entries have led to, shared with who reads it.
pub(crate) struct Derived {
    /// Another one after a snapshot came from a peer.
    store: RwLock<Arc<Store>>,
    pub(crate) stores: Arc<Stores>,
    pub(crate) changes: Arc<Changes>,
    /// Held while an entry's effects are written, so that who holds it sees
    /// rows and window of one moment.
    pub(crate) window: Mutex<Window>,
    /// What readers of the feed may see.
    pub(crate) published: watch::Sender<Published>,
    /// What checks found here.
    pub(crate) checks: Checks,
    /// One for the snapshot, one for a check or a backup: each reads all rows.
    pub(crate) scans: Arc<Semaphore>,
    /// This server is stopping: scans end at their next rows.
    pub(crate) stopping: AtomicBool,
    /// The rows are not what the log led to: the next start must look.
    pub(crate) diverged: AtomicBool,
    pub(crate) metrics: Metrics,
    pub(crate) traces: Traces,
    pub(crate) readers: Arc<Readers>,
    /// The last entry applied.
    pub(crate) applied_index: watch::Sender<u64>,
    /// Everything that the log held at the start is applied: checks that come now are new.
    pub(crate) caught_up: AtomicBool,
    /// The newest format of log entries that this server reads.
    pub(crate) entry_format: u32,
}

/// What opening a directory found out for [`Derived`].
pub(crate) struct Found {
    pub(crate) store: Arc<Store>,
    pub(crate) stores: Arc<Stores>,
    pub(crate) changes: Changes,
    pub(crate) window: Window,
    pub(crate) metrics: Metrics,
    pub(crate) entry_format: u32,
}

/// Scans of all rows that may go on at once.
pub(crate) const SCANS: usize = 2;

impl Derived {
    pub(crate) fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn new(found: Found) -> Self {
        let applied = found.store.applied();
        let index = applied.log_id.map_or(0, |log_id| log_id.index);
        Self {
            store: RwLock::new(found.store),
            stores: found.stores,
            changes: Arc::new(found.changes),
            window: Mutex::new(found.window),
            published: watch::Sender::new(Published { revision: applied.revision, closed: false }),
            checks: Checks::default(),
            scans: Arc::new(Semaphore::new(SCANS)),
            stopping: AtomicBool::new(false),
            diverged: AtomicBool::new(false),
            metrics: found.metrics,
            traces: Traces::default(),
            readers: Arc::default(),
            applied_index: watch::Sender::new(index),
            caught_up: AtomicBool::new(false),
            entry_format: found.entry_format,
        }
    }

    /// The rows.
    pub(crate) fn store(&self) -> Arc<Store> {
        self.store.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All rows, and the requests remembered, of one moment.
    pub(crate) fn point_in_time(&self) -> Result<(PointInTime, Window), StoreError> {
        let window = self.window();
        Ok((self.store().point_in_time()?, window.clone()))
    }

    /// Everything that was there gives way to what a snapshot holds: rows, remembered requests, and the
    /// change records before it. Readers that are at work go on with the former rows.
    fn replace(&self, number: u64, store: Arc<Store>, entries: Vec<WindowEntry>) -> io::Result<()> {
        let applied = store.applied();
        self.changes.restart_after(applied.revision, entries.clone())?;
        let former = {
            let mut window = self.window();
            *window = Window::default();
            entries.into_iter().for_each(|entry| window.insert(entry));
            std::mem::replace(&mut *self.store.write().unwrap_or_else(PoisonError::into_inner), store)
        };
        self.stores.switch(number);
        self.stores.retire(former);
        self.published.send_modify(|published| published.revision = applied.revision);
        self.note_applied(&applied);
        Ok(())
    }

    fn note_applied(&self, applied: &Applied) {
        let index = applied.log_id.map_or(0, |log_id| log_id.index);
        self.applied_index.send_if_modified(|known| std::mem::replace(known, index) != index);
    }
}

/// openraft's view of the state machine.
pub(crate) struct Machine {
    derived: Arc<Derived>,
    snapshots: Arc<Snapshots>,
    log: Arc<Log>,
    /// Whether long work has a thread of its own.
    blocking: bool,
    /// Closed when openraft lets go of the machine: nothing is applied then.
    _running: oneshot::Sender<()>,
}

impl Machine {
    pub(crate) fn new(
        derived: Arc<Derived>,
        snapshots: Arc<Snapshots>,
        log: Arc<Log>,
        blocking: bool,
        running: oneshot::Sender<()>,
    ) -> Self {
        Self { derived, snapshots, log, blocking, _running: running }
    }

    pub(crate) fn apply_entry(&self, log_id: &LogId, payload: &Payload) -> io::Result<Outcomes> {
        let started = Instant::now();
        let store = self.derived.store();
        let mut applied = store.applied();
        applied.log_id = Some(log_id_to_storage(log_id));
        let outcomes = match payload {
            Payload::Blank => self.write(&store, Draft::new(&store), applied, Vec::new()).map(|()| Vec::new()),
            Payload::Membership(membership) => {
                applied.membership = Some(membership_to_storage(Some(log_id), membership));
                self.write(&store, Draft::new(&store), applied, Vec::new()).map(|()| Vec::new())
            }
            Payload::Normal(command) => self.apply_command(&store, applied, command),
        };
        self.derived.metrics.apply_seconds.observe(started.elapsed().as_secs_f64());
        let behind = self.log.last().map_or(0, |last| last.index.saturating_sub(log_id.index));
        self.derived.metrics.apply_lag.set(i64::try_from(behind).unwrap_or(i64::MAX));
        outcomes
    }

    fn apply_command(&self, store: &Arc<Store>, mut applied: Applied, command: &Command) -> io::Result<Outcomes> {
        let command = storage::Command::decode(command.0.clone()).map_err(invalid)?;
        if command.format.max(1) > self.derived.entry_format {
            let (found, known) = (command.format, self.derived.entry_format);
            let text =
                format!("the log has an entry of format {found}, and this version knows {known}: use a newer flotilla");
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        applied.time = applied.time.max(command.time);
        match command.kind {
            Some(command::Kind::Batch(batch)) => self.apply_batch(store, applied, &batch),
            Some(command::Kind::Trim(trim)) => {
                applied.floor = applied.floor.max(trim.floor);
                let floor = applied.floor;
                self.write(store, Draft::new(store), applied, Vec::new())?;
                self.derived.changes.trim(floor);
                self.derived.window().forget_below(floor);
                Ok(Vec::new())
            }
            Some(command::Kind::Check(check)) => {
                let log_index = applied.log_id.map_or(0, |log_id| log_id.index);
                self.write(store, Draft::new(store), applied, Vec::new())?;
                self.begin_check(check.id, log_index)?;
                Ok(Vec::new())
            }
            None => self.write(store, Draft::new(store), applied, Vec::new()).map(|()| Vec::new()),
        }
    }

    fn apply_batch(&self, store: &Arc<Store>, mut applied: Applied, batch: &storage::Batch) -> io::Result<Outcomes> {
        let mut draft = Draft::new(store);
        let mut outcomes = Vec::with_capacity(batch.transactions.len());
        let mut changes: Vec<Change> = Vec::with_capacity(batch.transactions.len());
        // A retry may be in the same entry as the request that it repeats.
        let mut remembered: HashMap<bytes::Bytes, usize> = HashMap::new();
        for encoded in &batch.transactions {
            let transaction = Transaction::decode(encoded.clone()).map_err(invalid)?;
            if let Some(request) = &transaction.request {
                let known = match remembered.get(&request.key) {
                    Some(position) => Some(replay(&window_entry(&changes[*position]), request)),
                    None => self.derived.window().get(request).map(|entry| replay(entry, request)),
                };
                if let Some(outcome) = known {
                    outcomes.push(outcome);
                    continue;
                }
            }
            let revision = applied.revision + 1;
            match draft.apply(&transaction, revision, applied.time).map_err(io::Error::other)? {
                Drafted::Conflict { condition } => outcomes.push(Outcome::Conflict { condition }),
                Drafted::Committed { rows, results } => {
                    applied.revision = revision;
                    let answer = transaction.request.as_ref().map(|request| request.answer.clone()).unwrap_or_default();
                    let time = applied.time;
                    outcomes.push(Outcome::Committed(Committed {
                        revision,
                        time,
                        results: results.clone(),
                        answer,
                        replayed: false,
                    }));
                    if let Some(request) = &transaction.request {
                        remembered.insert(request.key.clone(), changes.len());
                    }
                    let (space, request) = (transaction.space, transaction.request);
                    changes.push(Change { revision, time, space, request, rows, results });
                }
            }
        }
        self.write(store, draft, applied, changes)?;
        Ok(outcomes)
    }

    /// Change records first, then the rows: a store is never ahead of its
    /// change records, unless a power cut takes the latter; then it is rebuilt.
    fn write(&self, store: &Store, draft: Draft<'_>, applied: Applied, changes: Vec<Change>) -> io::Result<()> {
        let entries: Vec<WindowEntry> =
            changes.iter().filter(|change| change.request.is_some()).map(window_entry).collect();
        let (revision, time) = (applied.revision, applied.time);
        let moved = !changes.is_empty();
        // Before readers are told of them. Says nothing to the state machine itself.
        self.derived.traces.note(&changes);
        self.derived.changes.append(changes)?;
        let mut window = self.derived.window();
        let index = applied.log_id;
        store.write(draft.finish(), applied).map_err(io::Error::other)?;
        for entry in entries {
            window.insert(entry);
        }
        window.forget_old(time);
        drop(window);
        if moved {
            self.derived.published.send_modify(|published| published.revision = revision);
        }
        self.derived.note_applied(&Applied { log_id: index, ..Applied::default() });
        Ok(())
    }

    fn begin_check(&self, id: String, log_index: u64) -> io::Result<()> {
        // Nobody waits for one that is replayed.
        if !self.derived.caught_up.load(Ordering::Acquire) {
            return Ok(());
        }
        let Ok(scan) = self.derived.scans.clone().try_acquire_owned() else {
            self.derived.checks.report(id, Err(StoreError::Busy));
            return Ok(());
        };
        let mut point = self.derived.store().point_in_time().map_err(io::Error::other)?;
        let derived = self.derived.clone();
        let hash = move || {
            let report = check_point(&mut point, log_index, &derived.stopping);
            drop(point);
            match &report {
                Ok(report) if !report.holds() => {
                    derived.diverged.store(true, Ordering::Release);
                    report.log_divergence();
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(log_index, %error, "a check of the rows could not be finished"),
            }
            derived.checks.report(id, report);
            drop(scan);
        };
        tokio::task::spawn_blocking(hash);
        Ok(())
    }
}

/// Takes over what a peer's snapshot holds. It is published before anything that it replaces goes: a
/// crash in between is mended at the next start.
fn install(derived: &Derived, snapshots: &Snapshots, snapshot: &SnapshotFile) -> Result<(), SnapshotError> {
    let started = Instant::now();
    let (number, store) = derived.stores.begin_next()?;
    let (applied, window) = snapshots.load_file(&snapshot.path, snapshot.file.clone(), &store)?;
    store.flush()?;
    snapshots.publish_from_peer(snapshot, applied.clone())?;
    derived.replace(number, store, window)?;
    derived.metrics.installed.inc();
    let rows = derived.store().hashes().rows();
    tracing::info!(rows, revision = applied.revision, elapsed = ?started.elapsed(), "took over a snapshot of a peer");
    Ok(())
}

/// Reads all rows and compares their hashes with the ones of the time.
fn check_point(point: &mut PointInTime, log_index: u64, stopping: &AtomicBool) -> Result<CheckReport, StoreError> {
    while !point.next_rows(1024)?.is_empty() {
        if stopping.load(Ordering::Acquire) {
            return Err(StoreError::Stopping);
        }
    }
    let expected = flotilla_store::hash::Hashes::from_storage(&point.applied().hashes).unwrap_or_default();
    let mut spaces: Vec<u32> = expected.spaces().chain(point.hashes().spaces()).map(|(space, _)| space).collect();
    spaces.sort_unstable();
    spaces.dedup();
    let check = |space| {
        let (expected, actual) = (expected.of(space), point.hashes().of(space));
        SpaceCheck { space, rows: actual.rows, expected: expected.sum, actual: actual.sum }
    };
    let spaces = spaces.into_iter().map(check).collect();
    Ok(CheckReport { revision: point.applied().revision, log_index, spaces })
}

impl CheckReport {
    /// Whether every space's rows are what the log led to.
    pub fn holds(&self) -> bool {
        self.spaces.iter().all(|space| space.expected == space.actual)
    }

    fn log_divergence(&self) {
        for space in self.spaces.iter().filter(|space| space.expected != space.actual) {
            let (expected, actual) = (format!("{:032x}", space.expected), format!("{:032x}", space.actual));
            let (space, log_index) = (space.space, self.log_index);
            tracing::error!(space, log_index, expected, actual, "the rows of a space are not what the log led to");
        }
    }
}

fn window_entry(change: &Change) -> WindowEntry {
    WindowEntry {
        revision: change.revision,
        time: change.time,
        request: change.request.clone(),
        results: change.results.clone(),
    }
}

fn replay(entry: &WindowEntry, request: &storage::Request) -> Outcome {
    match &entry.request {
        Some(known) if known.fingerprint == request.fingerprint => Outcome::Committed(Committed {
            revision: entry.revision,
            time: entry.time,
            results: entry.results.clone(),
            answer: known.answer.clone(),
            replayed: true,
        }),
        _ => Outcome::RequestIdReused,
    }
}

/// The window as the change records on disk tell it.
pub(crate) fn recover_window(changes: &Changes, applied: &Applied) -> io::Result<Window> {
    let mut window = Window::default();
    let from = applied.floor.max(applied.revision.saturating_sub(crate::window::MAX_ENTRIES as u64));
    changes.read_all(from, |entries, changes| {
        for entry in entries {
            window.insert(entry);
        }
        for change in &changes {
            if change.request.is_some() && change.revision <= applied.revision {
                window.insert(window_entry(change));
            }
        }
        window.forget_old(applied.time);
    })?;
    window.forget_below(applied.floor);
    Ok(window)
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = PublishedSnapshot;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let applied = self.derived.store().applied();
        let log_id = applied.log_id.as_ref().map(log_id_from_storage);
        let membership = match &applied.membership {
            Some(stored) => {
                let membership = membership_from_storage(stored).ok_or_else(|| invalid("the membership"))?;
                StoredMembership::new(stored.log_id.as_ref().map(log_id_from_storage), membership)
            }
            None => StoredMembership::default(),
        };
        Ok((log_id, membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.log.until_written(entry.log_id.index).await?;
            let outcomes = self.apply_entry(&entry.log_id, &entry.payload)?;
            if let Some(responder) = responder {
                responder.send(outcomes);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> PublishedSnapshot {
        PublishedSnapshot(self.snapshots.clone())
    }

    async fn install_snapshot(&mut self, _: &SnapshotMetaOf<TypeConfig>, snapshot: SnapshotFile) -> io::Result<()> {
        // openraft installs its own at a start, if the store is behind it; ours never is.
        match snapshot.installing {
            None => Ok(()),
            Some(_) => {
                let (derived, snapshots) = (self.derived.clone(), self.snapshots.clone());
                let install = move || install(&derived, &snapshots, &snapshot).map_err(io::Error::other);
                match self.blocking {
                    true => tokio::task::spawn_blocking(install).await.map_err(io::Error::other)?,
                    false => install(),
                }
            }
        }
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotFile>>> {
        self.snapshots.current()
    }
}

/// Hands openraft the snapshot that was published last. Building one takes a
/// while and may have to be tried again, so it is done apart, before openraft
/// is told.
pub(crate) struct PublishedSnapshot(Arc<Snapshots>);

impl RaftSnapshotBuilder<TypeConfig> for PublishedSnapshot {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, SnapshotFile>> {
        self.0.current()?.ok_or_else(|| io::Error::other("no snapshot has been published"))
    }
}

fn invalid(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a log entry can't be decoded: {what}"))
}
