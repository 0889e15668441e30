//! The handle that everything above the log uses.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use flotilla_proto::storage::v1::{self as storage, Transaction, command};
use flotilla_store::Store;
use openraft::{LogIdOptionExt, RaftMetrics, ReadPolicy, async_runtime::watch::WatchReceiver, metrics::WaitError};
use tokio::{
    sync::{Semaphore, oneshot, watch},
    time::Instant,
};
use tracing::field::Empty;

use crate::{
    CheckError, Cursor, Feed, FeedError, Metrics, OpenError, ProposeError, ReadError,
    backup::BACKUPS,
    batcher::{self, Batcher},
    clock::{Clock, SystemClock},
    disk::{self, Disk, SystemDisk},
    identity::{DirectoryLock, Identity},
    log::Log,
    machine::{Checks, Derived, Machine, SCANS},
    metrics::{PARTS, Part, gauge},
    network::NoPeers,
    open,
    raft::{Raft, Server, ServerId, TypeConfig},
    snapshot::Snapshots,
    trace::{Trace, Traced},
    traced,
    upkeep::Upkeep,
};

/// How long stopping waits for what is being applied.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Everything that opening a replica needs to know.
pub struct Options {
    /// Where the data is.
    pub data_dir: PathBuf,
    /// The cell's name; a directory of another cell is refused.
    pub cell: String,
    /// This server's id in the cell, from 1 on.
    pub server: u64,
    /// Where peers reach this server, "host:port".
    pub address: String,
    /// Bytes of sled's page cache.
    pub cache_bytes: u64,
    /// Bytes of change records that are kept for the feed.
    pub feed_retention_bytes: u64,
    /// How long change records are kept for the feed.
    pub feed_retention: Duration,
    /// Bytes that must be free on the disk for a write to be accepted.
    pub min_free_bytes: u64,
    /// Bytes of log after which a snapshot is taken and the log purged.
    pub snapshot_log_bytes: u64,
    /// Bytes of one file of the log.
    pub log_segment_bytes: u64,
    /// Bytes after which change records go on in another file; the feed is
    /// trimmed by whole files.
    pub changes_segment_bytes: u64,
    /// Transactions that may wait for their turn.
    pub max_waiting: usize,
    /// How long opening waits for the store to catch up with the log.
    pub catch_up_timeout: Duration,
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Whether log I/O has a thread of its own. A simulation, which runs on
    /// one thread to be repeatable, says no.
    pub log_thread: bool,
}

/// How current a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// It sees every write that was acknowledged before it began.
    #[default]
    Linearizable,
    /// It sees what this server has, which may be older.
    Local,
}

/// What is known of a transaction once it is durable and applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The transaction's number in its history.
    pub revision: u64,
    /// The log's time, in microseconds since 1970 (UTC).
    pub time: u64,
    /// One number for each operation, as in `Change.results`.
    pub results: Vec<u64>,
    /// The answer that the transaction's request carried.
    pub answer: Bytes,
    /// Whether this was a retry: the transaction had been committed before,
    /// and all of the above is from then.
    pub replayed: bool,
}

/// What a check found on this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// The revision at which the spaces were hashed.
    pub revision: u64,
    /// The index of the log entry that asked.
    pub log_index: u64,
    /// One for each space that has rows, or should have.
    pub spaces: Vec<SpaceCheck>,
}

/// One space's rows as they should be and as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpaceCheck {
    /// The space's number.
    pub space: u32,
    /// How many rows were found.
    pub rows: u64,
    /// The hash that applying the log led to.
    pub expected: u128,
    /// The hash of the rows found.
    pub actual: u128,
}

/// A moment's view of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The cell's name.
    pub cell: String,
    /// The history's id.
    pub history: String,
    /// This server's id.
    pub server: u64,
    /// Counts the lives of this server's data directory.
    pub incarnation: u64,
    /// The leader's id, if one is known.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
    /// The last index in this server's log.
    pub last_log_index: u64,
    /// The last index applied.
    pub applied_index: u64,
    /// The last revision applied.
    pub revision: u64,
    /// The first revision that the feed still has.
    pub floor: u64,
    /// Why this server acknowledges nothing any more, if so.
    pub failed: Option<String>,
}

/// One server's part of a cell: its log, its rows, its feed. Cheap to clone.
#[derive(Clone)]
pub struct Replica {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) identity: Identity,
    pub(crate) history: Arc<str>,
    raft: Raft,
    batcher: Arc<Batcher>,
    pub(crate) log: Arc<Log>,
    pub(crate) derived: Arc<Derived>,
    pub(crate) snapshots: Arc<Snapshots>,
    /// Places for backups.
    pub(crate) backups: Arc<Semaphore>,
    pub(crate) upkeep: Upkeep,
    pub(crate) options: Options,
    closing: Mutex<Option<Closing>>,
}

/// What shutting down needs, once.
struct Closing {
    lock: DirectoryLock,
    machine_gone: oneshot::Receiver<()>,
    writer: WriterTask,
}

enum WriterTask {
    Thread(std::thread::JoinHandle<()>),
    Task(tokio::task::JoinHandle<()>),
}

impl Options {
    /// The defaults, for one server in a directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            cell: "flotilla".into(),
            server: 1,
            address: "127.0.0.1:7400".into(),
            cache_bytes: 32 * 1024 * 1024,
            feed_retention_bytes: 64 * 1024 * 1024,
            feed_retention: Duration::from_secs(24 * 60 * 60),
            min_free_bytes: 256 * 1024 * 1024,
            snapshot_log_bytes: 64 * 1024 * 1024,
            log_segment_bytes: 8 * 1024 * 1024,
            changes_segment_bytes: 4 * 1024 * 1024,
            max_waiting: 4096,
            catch_up_timeout: Duration::from_secs(600),
            disk: Arc::new(SystemDisk),
            clock: Arc::new(SystemClock),
            log_thread: true,
        }
    }
}

impl Replica {
    /// Opens a data directory, or makes a new cell of one voter in an empty
    /// one, and returns when the store has caught up with the log.
    ///
    /// # Errors
    /// See [`OpenError`]. A directory that is refused is not changed.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        let (options, opened) = match options.log_thread {
            true => {
                let opening = tokio::task::spawn_blocking(move || open::open(&options).map(|opened| (options, opened)));
                opening.await.map_err(|error| OpenError::Raft { reason: format!("opening panicked: {error}") })??
            }
            false => {
                let opened = open::open(&options)?;
                (options, opened)
            }
        };
        let writer = match options.log_thread {
            true => WriterTask::Thread(log_thread(opened.writer)?),
            false => WriterTask::Task(tokio::spawn(opened.writer.run())),
        };
        let (running, machine_gone) = oneshot::channel();
        let machine = Machine::new(opened.derived.clone(), opened.snapshots.clone(), opened.log.clone(), running);
        let id = ServerId { server: opened.identity.server, incarnation: opened.identity.incarnation };
        let raft = Raft::new(id, raft_config(&options)?, NoPeers, opened.log_storage, machine);
        let raft = raft.await.map_err(|error| OpenError::Raft { reason: error.to_string() })?;
        form(&raft, id, &options).await?;

        let metrics = opened.derived.metrics.clone();
        let batcher =
            Batcher::new(raft.clone(), options.clock.clone(), metrics, opened.log.clone(), options.max_waiting);
        let upkeep = Upkeep::start(&options, &raft, id, &opened.log, &opened.derived, &opened.snapshots);
        let closing = Mutex::new(Some(Closing { lock: opened.lock, machine_gone, writer }));
        let inner = Inner {
            history: opened.identity.history.as_str().into(),
            identity: opened.identity,
            raft,
            batcher,
            log: opened.log,
            derived: opened.derived,
            snapshots: opened.snapshots,
            backups: Arc::new(Semaphore::new(BACKUPS)),
            upkeep,
            options,
            closing,
        };
        let replica = Self { inner: Arc::new(inner) };
        replica.catch_up().await?;
        Ok(replica)
    }

    /// Commits a transaction: returns when it is fsynced and applied.
    ///
    /// # Errors
    /// See [`ProposeError`], which says of each whether anything happened.
    pub async fn propose(&self, transaction: Transaction, deadline: Instant) -> Result<Committed, ProposeError> {
        self.commit(transaction, deadline, None).await
    }

    /// The same for a request that may be traced: with a span `transaction`,
    /// and within it `queue`, `fsync` and `apply`. [`Replica::trace_of`] knows
    /// it by its revision, if the transaction carries a request.
    ///
    /// # Errors
    /// As [`Replica::propose`].
    pub async fn propose_traced(
        &self,
        transaction: Transaction,
        deadline: Instant,
        trace: Option<Trace>,
    ) -> Result<Committed, ProposeError> {
        let Some(parent) = trace else { return self.commit(transaction, deadline, None).await };
        let span = traced!(parent, "transaction", revision = Empty, outcome = Empty);
        let traces = &self.inner.derived.traces;
        let key = transaction.request.as_ref().map(|request| request.key.clone());
        let expected = key.and_then(|key| traces.expect(key, span.trace()));
        let committed = self.commit(transaction, deadline, Some(span.trace())).await;
        drop(expected);
        record_outcome(&span, &committed);
        committed
    }

    /// The span `transaction` of a traced request of this server, by the
    /// revision that it made: what follows from the revision belongs there.
    /// Known before readers of the feed get the revision, and until 1,024
    /// others followed.
    pub fn trace_of(&self, revision: u64) -> Option<Trace> {
        self.inner.derived.traces.of(revision)
    }

    async fn commit(
        &self,
        transaction: Transaction,
        deadline: Instant,
        trace: Option<Trace>,
    ) -> Result<Committed, ProposeError> {
        flotilla_store::transaction::check(&transaction)?;
        self.check_writable()?;
        if deadline <= Instant::now() {
            return Err(ProposeError::DeadlineExpired { submitted: false });
        }
        self.inner.upkeep.wait_for_leader(deadline).await.map_err(|()| ProposeError::NoLeader)?;
        let answered = self.inner.batcher.submit(&transaction, deadline, trace)?;
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(self.why_stopped()),
            Err(_) => Err(ProposeError::DeadlineExpired { submitted: true }),
        }
    }

    /// Returns when the store is as current as asked for, with its revision.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_barrier(&self, consistency: Consistency, deadline: Instant) -> Result<u64, ReadError> {
        // A sole voter that leads has applied whatever it has acknowledged,
        // and nobody else can acknowledge anything.
        if consistency == Consistency::Linearizable && !self.inner.upkeep.is_sole_leader() {
            if let Some(reason) = self.failure() {
                // Reads go on where nobody else can have acknowledged anything.
                return match self.inner.upkeep.led_alone() {
                    true => Ok(self.inner.derived.store.revision()),
                    false => Err(ReadError::LogFailed { reason }),
                };
            }
            self.inner.upkeep.wait_for_leader(deadline).await.map_err(|()| ReadError::NoLeader)?;
            let current = self.inner.raft.ensure_linearizable(ReadPolicy::ReadIndex);
            let current = tokio::time::timeout_at(deadline, current).await.map_err(|_| ReadError::DeadlineExpired)?;
            current.map_err(|_| ReadError::NoLeader)?;
        }
        Ok(self.inner.derived.store.revision())
    }

    /// The rows. Call [`Replica::read_barrier`] first.
    pub fn store(&self) -> &Arc<Store> {
        &self.inner.derived.store
    }

    /// The history's id: part of every cursor and page token.
    pub fn history(&self) -> &str {
        &self.inner.history
    }

    /// A reader of the feed from a cursor on, or from now on.
    ///
    /// # Errors
    /// See [`FeedError`].
    pub fn feed(&self, from: Option<&Cursor>) -> Result<Feed, FeedError> {
        let (changes, history) = (self.inner.derived.changes.clone(), self.inner.history.clone());
        let readers = self.inner.derived.readers.clone();
        Feed::open(changes, history, self.inner.derived.published.subscribe(), readers, from)
    }

    /// Hashes every space at one point of the log.
    ///
    /// # Errors
    /// See [`CheckError`].
    pub async fn check(&self, deadline: Instant) -> Result<CheckReport, CheckError> {
        self.check_writable()?;
        self.inner.upkeep.wait_for_leader(deadline).await.map_err(|()| ProposeError::NoLeader)?;
        let (report, reported) = oneshot::channel();
        let id = ulid::Ulid::new().to_string();
        self.checks().insert(id.clone(), report);
        let check = command::Kind::Check(storage::Check { id: id.clone() });
        let command = batcher::encode(self.inner.options.clock.now(), check);
        let submitted = self.inner.raft.client_write_ff(command, None).await;
        let answer = match submitted {
            Ok(()) => match tokio::time::timeout_at(deadline, reported).await {
                Ok(Ok(report)) => report.map_err(CheckError::Store),
                Ok(Err(_)) => Err(self.why_stopped().into()),
                Err(_) => Err(ProposeError::DeadlineExpired { submitted: true }.into()),
            },
            Err(_) => Err(self.why_stopped().into()),
        };
        self.checks().remove(&id);
        answer
    }

    /// A moment's view.
    pub fn status(&self) -> Status {
        let raft = self.inner.raft.metrics().borrow_watched().clone();
        let applied = self.inner.derived.store.applied();
        Status {
            cell: self.inner.identity.cell.clone(),
            history: self.inner.history.to_string(),
            server: self.inner.identity.server,
            incarnation: self.inner.identity.incarnation,
            leader: raft.current_leader.map(|leader| leader.server),
            term: raft.current_term,
            last_log_index: raft.last_log_index.unwrap_or(0),
            applied_index: applied.log_id.map_or(0, |log_id| log_id.index),
            revision: applied.revision,
            floor: self.inner.derived.changes.floor(),
            failed: self.failure(),
        }
    }

    /// Whether this server leads its cell, following changes. Ends when the
    /// replica shuts down.
    pub fn watch_leadership(&self) -> watch::Receiver<bool> {
        self.inner.upkeep.watch_leadership()
    }

    /// Brings the gauges among the metrics up to date. It lists the data
    /// directory, so it blocks for as long as the disk takes for that.
    pub fn refresh_metrics(&self) {
        let (status, derived) = (self.status(), &self.inner.derived);
        let gauges = &derived.metrics.gauges;
        gauges.waiting_limit.set(gauge(self.inner.options.max_waiting as u64));
        gauges.log_failed.set(i64::from(status.failed.is_some()));
        gauges.leads.set(i64::from(*self.watch_leadership().borrow()));
        gauges.leader_known.set(i64::from(status.leader.is_some()));
        gauges.term.set(gauge(status.term));
        gauges.revision.set(gauge(status.revision));
        gauges.floor.set(gauge(status.floor));
        gauges.behind.set(gauge(derived.readers.behind(status.revision)));
        gauges.rows.set(gauge(derived.store.hashes().rows()));
        for part in PARTS {
            let bytes = disk::bytes_below(&self.inner.options.data_dir.join(part));
            gauges.disk_used.get_or_create(&Part { part }).set(gauge(bytes));
        }
    }

    /// What is counted, to be registered with a Prometheus registry.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.derived.metrics
    }

    /// Stops: no new transactions, what is in the log is applied, the store is
    /// flushed, the directory released. Feeds end. A second call does nothing.
    ///
    /// # Errors
    /// If the disk refused; the data is safe in the log all the same.
    pub async fn shutdown(&self) -> Result<(), OpenError> {
        let closing = self.inner.closing.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(closing) = closing else { return Ok(()) };
        self.inner.upkeep.stop();
        self.inner.derived.stopping.store(true, Ordering::Release);
        self.inner.derived.published.send_modify(|published| published.closed = true);
        // An error here is that Raft had stopped before.
        let _ = self.inner.raft.shutdown().await;
        // The machine is dropped when nothing is applied any more.
        let still_applying = tokio::time::timeout(STOP_TIMEOUT, closing.machine_gone).await.is_err();
        // Scans end at their next rows; after this none touches the directory.
        let scans = self.inner.derived.scans.acquire_many(SCANS as u32);
        let still_applying = tokio::time::timeout(STOP_TIMEOUT, scans).await.is_err() || still_applying;
        let derived = self.inner.derived.clone();
        let flush = move || -> Result<u64, OpenError> {
            derived.changes.sync().map_err(OpenError::io("sync", "changes"))?;
            derived.store.flush()?;
            Ok(derived.store.revision())
        };
        let revision = match self.inner.options.log_thread {
            true => tokio::task::spawn_blocking(flush)
                .await
                .map_err(|_| OpenError::NotCaughtUp { waited: STOP_TIMEOUT })??,
            false => flush()?,
        };
        if still_applying || self.inner.derived.diverged.load(Ordering::Acquire) {
            // Not a clean stop: the next start checks every row.
            return Err(OpenError::NotClean);
        }
        let marker = self.inner.options.data_dir.join(open::CLEAN);
        let text = format!("{revision}\n");
        disk::replace_file(self.inner.options.disk.as_ref(), &marker, text.as_bytes())
            .map_err(OpenError::io("write", &marker))?;
        match closing.writer {
            // It ends with its queue, which Raft held. Only then may another
            // process have the directory.
            WriterTask::Thread(thread) => {
                let ended = tokio::task::spawn_blocking(move || thread.join());
                let _ = tokio::time::timeout(STOP_TIMEOUT, ended).await;
            }
            WriterTask::Task(task) => task.abort(),
        }
        drop(closing.lock);
        Ok(())
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// Why this server acknowledges nothing any more, if so.
    fn failure(&self) -> Option<String> {
        self.inner.log.failed().or_else(|| match &self.inner.raft.metrics().borrow_watched().running_state {
            Err(fatal) if !self.inner.upkeep.is_stopped() => Some(fatal.to_string()),
            _ => None,
        })
    }

    fn check_writable(&self) -> Result<(), ProposeError> {
        if self.inner.upkeep.is_stopped() {
            return Err(ProposeError::ShuttingDown);
        }
        if let Some(reason) = self.inner.log.failed() {
            return Err(ProposeError::LogFailed { reason });
        }
        match self.inner.upkeep.full_disk() {
            Some((free, required)) => Err(ProposeError::DiskFull { free, required }),
            None => Ok(()),
        }
    }

    fn why_stopped(&self) -> ProposeError {
        match self.failure() {
            Some(reason) => ProposeError::LogFailed { reason },
            None => ProposeError::ShuttingDown,
        }
    }

    fn checks(&self) -> MutexGuard<'_, Checks> {
        self.inner.derived.checks()
    }

    /// Waits until everything that the log held at the start is applied.
    async fn catch_up(&self) -> Result<(), OpenError> {
        let waited = self.inner.options.catch_up_timeout;
        let target = self.inner.log.last().map_or(0, |last| last.index);
        let leader = self.inner.upkeep.wait_for_leader(Instant::now() + waited);
        leader.await.map_err(|()| match self.failure() {
            Some(reason) => OpenError::Raft { reason },
            None => OpenError::NotCaughtUp { waited },
        })?;
        let caught_up = |metrics: &RaftMetrics<TypeConfig>| {
            metrics.running_state.is_err() || metrics.last_applied.index() >= Some(target)
        };
        let waiting = self.inner.raft.wait(Some(waited));
        match waiting.metrics(caught_up, "the store has caught up with the log").await {
            Ok(metrics) => metrics.running_state.map_err(|fatal| OpenError::Raft { reason: fatal.to_string() }),
            Err(WaitError::Timeout(..)) => Err(OpenError::NotCaughtUp { waited }),
            Err(error) => Err(OpenError::Raft { reason: error.to_string() }),
        }
    }
}

fn record_outcome(span: &Traced, committed: &Result<Committed, ProposeError>) {
    let outcome = match committed {
        Ok(Committed { replayed: false, .. }) => "committed",
        Ok(Committed { replayed: true, .. }) => "replayed",
        Err(ProposeError::Conflict { .. }) => "conflict",
        Err(_) => "failed",
    };
    span.record("outcome", outcome);
    if let Ok(committed) = committed {
        span.record("revision", committed.revision);
    }
}

/// A new cell is formed by its first server; a sole voter elects itself at
/// once, instead of waiting for a leader that can't come.
async fn form(raft: &Raft, id: ServerId, options: &Options) -> Result<(), OpenError> {
    let refused = |reason: String| OpenError::Raft { reason };
    let initialized = raft.is_initialized().await.map_err(|error| refused(error.to_string()))?;
    if !initialized {
        let servers = BTreeMap::from([(id, Server { address: options.address.clone() })]);
        return raft.initialize(servers).await.map_err(|error| refused(error.to_string()));
    }
    if raft.voter_ids().eq([id]) {
        raft.trigger().elect(false).await.map_err(|error| refused(error.to_string()))?;
    }
    Ok(())
}

fn raft_config(options: &Options) -> Result<Arc<openraft::Config>, OpenError> {
    let config = openraft::Config {
        cluster_name: options.cell.clone(),
        heartbeat_interval: 250,
        election_timeout_min: 1_000,
        election_timeout_max: 2_000,
        enable_pre_vote: Some(true),
        // Snapshots are made in `upkeep`, which tells Raft when one is there;
        // the whole log behind it may go then.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        // The batcher bounds what is under way; these are far above it, and
        // openraft allots memory for all of them at the start.
        api_channel_size: Some(1024),
        api_batch_capacity: 64,
        notification_channel_size: Some(1024),
        state_machine_channel_size: Some(64),
        ..openraft::Config::default()
    };
    config.validate().map(Arc::new).map_err(|error| OpenError::Raft { reason: error.to_string() })
}

/// Log I/O has a thread of its own: an fsync blocks, and must not hold up
/// requests that are ready to be served.
fn log_thread(writer: crate::log::Writer) -> Result<std::thread::JoinHandle<()>, OpenError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(OpenError::io("start a runtime for", "the log"))?;
    std::thread::Builder::new()
        .name("log".into())
        .spawn(move || runtime.block_on(writer.run()))
        .map_err(OpenError::io("start a thread for", "the log"))
}
