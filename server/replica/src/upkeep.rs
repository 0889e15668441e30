//! What a replica does besides answering: it watches the disk's free space,
//! and keeps log and feed bounded.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use flotilla_proto::storage::v1::{self as storage, command};
use flotilla_store::StoreError;
use openraft::LogIdOptionExt;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    Options,
    batcher::Batcher,
    leadership::Leadership,
    log::Log,
    machine::Derived,
    metrics::{Gauges, gauge},
    raft::Raft,
    snapshot::{SnapshotError, Snapshots},
};

/// How often the free space is looked at. Writes are refused while there is
/// more left than can be written between two looks.
const DISK_INTERVAL: Duration = Duration::from_millis(500);
/// How often it is seen whether a snapshot or a trim is due.
const BOUNDS_INTERVAL: Duration = Duration::from_secs(1);
/// How often a snapshot is tried anew when rows changed too fast.
const SNAPSHOT_TRIES: u32 = 3;
/// How long after a failed snapshot the next is tried, at first and at last.
const SNAPSHOT_PAUSE: Duration = Duration::from_secs(5);
const SNAPSHOT_MAX_PAUSE: Duration = Duration::from_secs(600);
/// How long openraft may take to note a published snapshot.
const SNAPSHOT_NOTED: Duration = Duration::from_secs(30);

/// The background work of one replica, and what it found.
pub(crate) struct Upkeep {
    shared: Arc<Shared>,
    tasks: std::sync::Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    disk_full: AtomicBool,
    free_bytes: AtomicU64,
    required_bytes: AtomicU64,
}

impl Upkeep {
    pub(crate) fn start(
        options: &Options,
        raft: &Raft,
        leadership: &Arc<Leadership>,
        log: &Arc<Log>,
        derived: &Arc<Derived>,
        snapshots: &Arc<Snapshots>,
        batcher: &Arc<Batcher>,
    ) -> Arc<Self> {
        let shared = Arc::new(Shared::default());
        shared.required_bytes.store(options.min_free_bytes, Ordering::Relaxed);
        let mut tasks = JoinSet::new();
        tasks.spawn(watch_disk(
            options.disk.clone(),
            options.data_dir.clone(),
            shared.clone(),
            derived.metrics.gauges.clone(),
        ));
        let bounds = Bounds {
            raft: raft.clone(),
            leadership: leadership.clone(),
            log: log.clone(),
            derived: derived.clone(),
            snapshots: snapshots.clone(),
            batcher: batcher.clone(),
            snapshot_log_bytes: options.snapshot_log_bytes,
            feed_retention_bytes: options.feed_retention_bytes,
            feed_retention: options.feed_retention,
            blocking: options.log_thread,
        };
        tasks.spawn(bounds.keep());
        Arc::new(Self { shared, tasks: tasks.into() })
    }

    /// Runs something until [`Upkeep::stop`].
    pub(crate) fn add(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).spawn(task);
    }

    /// Ends the background work. What it is writing is finished or left out.
    pub(crate) fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).abort_all();
    }

    /// Whether [`Upkeep::stop`] was called.
    pub(crate) fn is_stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::Acquire)
    }

    /// Bytes free and bytes required, if fewer are free.
    pub(crate) fn full_disk(&self) -> Option<(u64, u64)> {
        let full = self.shared.disk_full.load(Ordering::Acquire);
        let (free, required) = (&self.shared.free_bytes, &self.shared.required_bytes);
        full.then(|| (free.load(Ordering::Relaxed), required.load(Ordering::Relaxed)))
    }
}

async fn watch_disk(
    disk: Arc<dyn crate::disk::Disk>,
    data_dir: std::path::PathBuf,
    shared: Arc<Shared>,
    gauges: Gauges,
) {
    let mut ticks = interval(DISK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // A disk that doesn't tell is not taken for a full one.
        let Ok(free) = disk.free_bytes(&data_dir) else { continue };
        let required = shared.required_bytes.load(Ordering::Relaxed);
        shared.free_bytes.store(free, Ordering::Relaxed);
        gauges.disk_free.set(gauge(free));
        gauges.disk_required.set(gauge(required));
        let full = free < required;
        if shared.disk_full.swap(full, Ordering::AcqRel) != full {
            match full {
                true => tracing::error!(free, required, "the disk is full; writes are refused, reads go on"),
                false => tracing::info!(free, required, "the disk has room again; writes are accepted"),
            }
        }
    }
}

/// Keeps log and feed from growing without end.
struct Bounds {
    raft: Raft,
    leadership: Arc<Leadership>,
    batcher: Arc<Batcher>,
    log: Arc<Log>,
    derived: Arc<Derived>,
    snapshots: Arc<Snapshots>,
    snapshot_log_bytes: u64,
    feed_retention_bytes: u64,
    feed_retention: Duration,
    blocking: bool,
}

impl Bounds {
    async fn keep(self) {
        let mut ticks = interval(BOUNDS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut covered = 0;
        let (mut not_before, mut pause) = (Instant::now(), SNAPSHOT_PAUSE);
        loop {
            ticks.tick().await;
            let appended = self.log.appended_bytes();
            // A large store is not written anew for every bit of log.
            let due = self.snapshot_log_bytes.max(self.snapshots.bytes());
            let gauges = &self.derived.metrics.gauges;
            gauges.snapshot_log.set(gauge(appended - covered));
            gauges.snapshot_due.set(gauge(due));
            gauges.snapshot_time.set(gauge(self.snapshots.applied().map_or(0, |applied| applied.time / 1_000_000)));
            if appended - covered >= due && Instant::now() >= not_before {
                match self.snapshot().await {
                    true => (covered, pause) = (appended, SNAPSHOT_PAUSE),
                    // It reads every row: what fails is not tried in a hurry.
                    false => (not_before, pause) = (Instant::now() + pause, (pause * 2).min(SNAPSHOT_MAX_PAUSE)),
                }
            }
            if self.leadership.leads() {
                self.trim().await;
            }
        }
    }

    async fn trim(&self) {
        let now = self.derived.store().applied().time;
        let age = u64::try_from(self.feed_retention.as_micros()).unwrap_or(u64::MAX);
        let window_from = self.derived.window().first_revision().unwrap_or(u64::MAX);
        let oldest = now.saturating_sub(age);
        let floor = self.derived.changes.wanted_floor(self.feed_retention_bytes, oldest, window_from);
        if let Some(floor) = floor {
            let trim = command::Kind::Trim(storage::Trim { floor });
            // If Raft has stopped, or leadership goes, the next leader trims.
            let _ = self.raft.client_write_ff(self.batcher.encode(trim), None).await;
        }
    }

    /// Lets the log behind a snapshot go: all of it in a cell of one, and otherwise what a server that
    /// was away for a moment will not need.
    async fn purge(&self, index: Option<u64>) -> bool {
        let Some(index) = index else { return true };
        let keep_from = match self.leadership.is_sole() {
            true => index + 1,
            false => self.log.first_of_last(self.snapshot_log_bytes / 2).unwrap_or(index + 1),
        };
        match index.min(keep_from.saturating_sub(1)) {
            0 => true,
            upto => self.raft.trigger().purge_log(upto).await.is_ok(),
        }
    }

    /// Makes a snapshot and lets the log behind it go. Whether it did.
    async fn snapshot(&self) -> bool {
        let started = Instant::now();
        // A check may be reading all rows, too; the semaphore is never closed.
        let Ok(scan) = self.derived.scans.clone().acquire_owned().await else { return false };
        let scan = Arc::new(scan);
        for _ in 0..SNAPSHOT_TRIES {
            // Goes along, because a blocking task outlives one that waits for it.
            let scan = scan.clone();
            let (derived, snapshots) = (self.derived.clone(), self.snapshots.clone());
            let write = move || {
                let written = write_snapshot(&derived, &snapshots);
                drop(scan);
                written
            };
            let written = match self.blocking {
                true => tokio::task::spawn_blocking(write).await,
                false => Ok(write()),
            };
            let applied = match written {
                Ok(Ok(applied)) => applied,
                Ok(Err(SnapshotError::Store(StoreError::ChangedTooMuch { bytes }))) => {
                    tracing::info!(bytes, "the rows changed too fast for a snapshot; trying again");
                    continue;
                }
                Ok(Err(SnapshotError::Store(StoreError::Stopping))) => return false,
                Ok(Err(error)) => {
                    if matches!(error, SnapshotError::Diverged(_)) {
                        self.derived.diverged.store(true, Ordering::Release);
                    }
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, cause, "a snapshot could not be made; the log is kept");
                    self.derived.metrics.gauges.snapshots_failed.inc();
                    return false;
                }
                Err(_) => return false,
            };
            let index = applied.log_id.map(|log_id| log_id.index);
            tracing::info!(index, revision = applied.revision, elapsed = ?started.elapsed(), "published a snapshot");
            self.derived.metrics.snapshots.inc();
            self.derived.metrics.gauges.snapshot_seconds.set(started.elapsed().as_secs_f64());
            if self.raft.trigger().snapshot().await.is_err() {
                return false;
            }
            let waiting = self.raft.wait(Some(SNAPSHOT_NOTED));
            let noted = waiting.metrics(|metrics| metrics.snapshot.index() >= index, "the snapshot is noted");
            return noted.await.is_ok() && self.purge(index).await;
        }
        false
    }
}

fn write_snapshot(derived: &Derived, snapshots: &Snapshots) -> Result<storage::Applied, SnapshotError> {
    let (point, window) = derived.point_in_time()?;
    // Before the snapshot is published: the log behind it goes next, and with
    // it the means to make these again; and Raft refuses to start with a store
    // that is behind a snapshot.
    derived.changes.sync()?;
    derived.store().flush()?;
    derived.changes.remove_below(point.applied().floor)?;
    snapshots.write(point, &window, &derived.stopping)
}
