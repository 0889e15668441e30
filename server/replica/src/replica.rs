//! The handle that everything above the log uses.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flotilla_store::Store;
use futures::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::{
    sync::{Semaphore, oneshot, watch},
    time::Instant,
};

use crate::{
    Cursor, Feed, FeedError, Metrics, OpenError, Options, ProposeError,
    backup::BACKUPS,
    batcher::Batcher,
    cell::Cell,
    disk,
    forward::Forwarder,
    identity::DirectoryLock,
    leadership::Leadership,
    log::Log,
    machine::{Derived, Machine, SCANS},
    members::Members,
    metrics::{PARTS, Part, gauge},
    network::Peers,
    open,
    raft::Raft,
    read_index::ReadIndex,
    snapshot::Snapshots,
    survey::Survey,
    upkeep::Upkeep,
};

/// How long stopping waits for what is being applied.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// How current a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// It sees every write that was acknowledged before it began.
    #[default]
    Linearizable,
    /// It sees what this server has, which may be older: by no more than this, if it is given.
    Local {
        /// How far the server may be behind.
        max_lag: Option<Duration>,
    },
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

/// A moment's view of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The cell's name.
    pub cell: String,
    /// The history's id.
    pub history: String,
    /// This server's id.
    pub server: u64,
    /// Tells the lives of this server's data directory apart.
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
    pub(crate) cell: Arc<Cell>,
    pub(crate) raft: Raft,
    pub(crate) batcher: Arc<Batcher>,
    pub(crate) forwarder: Arc<Forwarder>,
    pub(crate) read_index: Arc<ReadIndex>,
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) survey: Arc<Survey>,
    pub(crate) members: Arc<Members>,
    pub(crate) log: Arc<Log>,
    pub(crate) derived: Arc<Derived>,
    pub(crate) snapshots: Arc<Snapshots>,
    /// Places for backups.
    pub(crate) backups: Arc<Semaphore>,
    /// The place for a snapshot that comes in.
    pub(crate) installing: Arc<Semaphore>,
    pub(crate) upkeep: Arc<Upkeep>,
    pub(crate) options: Options,
    /// Everything that the cell had when this server came to it is applied.
    pub(crate) ready: AtomicBool,
    /// This server is about to stop.
    pub(crate) draining: AtomicBool,
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

impl Replica {
    /// Opens a data directory, or begins an empty one, and returns when this server is part of a cell
    /// and has caught up: [`Replica::start`], then [`Replica::until_ready`].
    ///
    /// # Errors
    /// See [`OpenError`]. A directory that is refused is not changed.
    pub fn open(options: Options) -> BoxFuture<'static, Result<Self, OpenError>> {
        Box::pin(async move {
            let replica = Self::start(options).await?;
            match replica.until_ready().await {
                Ok(()) => Ok(replica),
                Err(error) => {
                    // What it says matters more than what closing says.
                    let _ = replica.shutdown().await;
                    Err(error)
                }
            }
        })
    }

    /// Opens a data directory, or begins an empty one. Its peers can reach it from now on; nothing can
    /// be read or written before it is ready.
    ///
    /// # Errors
    /// See [`OpenError`]. A directory that is refused is not changed.
    pub fn start(options: Options) -> BoxFuture<'static, Result<Self, OpenError>> {
        Box::pin(async move {
            let (options, opened) = match options.log_thread {
                true => {
                    let opening =
                        tokio::task::spawn_blocking(move || open::open(&options).map(|opened| (options, opened)));
                    opening
                        .await
                        .map_err(|error| OpenError::Raft { reason: format!("opening panicked: {error}") })??
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
            let (cell, log, derived, snapshots) = (opened.cell, opened.log, opened.derived, opened.snapshots);
            let blocking = options.log_thread;
            let machine = Machine::new(derived.clone(), snapshots.clone(), log.clone(), blocking, running);
            let peers = Peers { cell: cell.clone() };
            let raft = Raft::new(cell.id, options.raft()?, peers, opened.log_storage, machine);
            let raft = raft.await.map_err(|error| OpenError::Raft { reason: error.to_string() })?;
            // openraft has cut the log behind a snapshot that came from a peer.
            snapshots.log_is_cut().map_err(OpenError::io("tidy", options.data_dir.join("snapshots")))?;

            let metrics = derived.metrics.clone();
            let (leadership, following) = Leadership::follow(&raft, cell.id, options.election);
            let leadership = Arc::new(leadership);
            let survey = Survey::new(cell.clone(), options.clock.clone());
            let format = Arc::new(AtomicU32::new(match cell.is_alone() {
                true => options.entry_format,
                // Until every voter has said what it reads.
                false => 1,
            }));
            let formats = (format.clone(), options.entry_format);
            let members =
                Members::new(cell.clone(), raft.clone(), log.clone(), leadership.clone(), survey.clone(), formats);
            let (clock, waiting) = (options.clock.clone(), options.max_waiting);
            let batcher = Batcher::new(raft.clone(), clock, metrics.clone(), log.clone(), waiting, format);
            let forwarder = Forwarder::new(cell.clone(), leadership.clone(), metrics.clone(), waiting);
            let read_index = ReadIndex::new(raft.clone(), cell.clone(), leadership.clone(), metrics);
            let upkeep = Upkeep::start(&options, &raft, &leadership, &log, &derived, &snapshots, &batcher);
            upkeep.add(following);
            upkeep.add(survey.clone().run(raft.clone()));
            let disk = upkeep.clone();
            upkeep.add(members.clone().keep(move || disk.full_disk().is_some()));
            let closing = Mutex::new(Some(Closing { lock: opened.lock, machine_gone, writer }));
            let inner = Inner {
                cell,
                raft,
                batcher,
                forwarder,
                read_index,
                leadership,
                survey,
                members,
                log,
                derived,
                snapshots,
                backups: Arc::new(Semaphore::new(BACKUPS)),
                installing: Arc::new(Semaphore::new(1)),
                upkeep,
                options,
                ready: AtomicBool::new(false),
                draining: AtomicBool::new(false),
                closing,
            };
            Ok(Self { inner: Arc::new(inner) })
        })
    }

    /// The rows. Call [`Replica::read_barrier`] first.
    pub fn store(&self) -> Arc<Store> {
        self.inner.derived.store()
    }

    /// The history's id: part of every cursor and page token; empty until the cell is formed.
    pub fn history(&self) -> Arc<str> {
        self.inner.cell.history()
    }

    /// A reader of the feed from a cursor on, or from now on.
    ///
    /// # Errors
    /// See [`FeedError`].
    pub fn feed(&self, from: Option<&Cursor>) -> Result<Feed, FeedError> {
        let (changes, history) = (self.inner.derived.changes.clone(), self.history());
        let readers = self.inner.derived.readers.clone();
        Feed::open(changes, history, self.inner.derived.published.subscribe(), readers, from)
    }

    /// A moment's view.
    pub fn status(&self) -> Status {
        let raft = self.inner.raft.metrics().borrow_watched().clone();
        let applied = self.inner.derived.store().applied();
        Status {
            cell: self.inner.cell.name.clone(),
            history: self.history().to_string(),
            server: self.inner.cell.id.server,
            incarnation: self.inner.cell.id.incarnation,
            leader: self.inner.leadership.current().map(|leader| leader.id.server),
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
        self.inner.leadership.watch_leads()
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
        gauges.rows.set(gauge(derived.store().hashes().rows()));
        for part in PARTS {
            let path = match part {
                "store" => derived.stores.path(),
                part => self.inner.options.data_dir.join(part),
            };
            let bytes = disk::bytes_below(&path);
            gauges.disk_used.get_or_create(&Part { part }).set(gauge(bytes));
        }
    }

    /// What is counted, to be registered with a Prometheus registry.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.derived.metrics
    }

    /// Prepares for the end: hands leadership over if this server leads, and leaves the cell if config
    /// counts it among the learners. Requests go on. Bounded; that it failed changes nothing.
    pub fn leave<'a>(&'a self, deadline: Instant) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.inner.draining.store(true, Ordering::Release);
            if self.inner.upkeep.is_stopped() {
                return;
            }
            let _ = tokio::time::timeout_at(deadline, self.inner.members.leave_in_peace(deadline)).await;
        })
    }

    /// Stops: no new transactions, what is in the log is applied, the store is
    /// flushed, the directory released. Feeds end. A second call does nothing.
    ///
    /// # Errors
    /// If the disk refused; the data is safe in the log all the same.
    pub fn shutdown<'a>(&'a self) -> BoxFuture<'a, Result<(), OpenError>> {
        Box::pin(async move {
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
                let store = derived.store();
                store.flush()?;
                Ok(store.revision())
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
        })
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// Why this server acknowledges nothing any more, if so.
    pub(crate) fn failure(&self) -> Option<String> {
        self.inner.log.failed().or_else(|| match &self.inner.raft.metrics().borrow_watched().running_state {
            Err(fatal) if !self.inner.upkeep.is_stopped() => Some(fatal.to_string()),
            _ => None,
        })
    }

    pub(crate) fn why_stopped(&self) -> ProposeError {
        match self.failure() {
            Some(reason) => ProposeError::LogFailed { reason },
            None => ProposeError::ShuttingDown,
        }
    }
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
