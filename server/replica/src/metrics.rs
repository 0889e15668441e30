//! What the log and the feed count, in Prometheus' terms.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Counters of one replica. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// fdatasync calls of the log.
    pub fsyncs: Counter,
    /// How long they took, in seconds.
    pub fsync_seconds: Histogram,
    /// Transactions in each log entry: how well writers share an fsync.
    pub group_transactions: Histogram,
    /// Bytes written to the log.
    pub log_bytes: Counter,
    /// Transactions acknowledged.
    pub committed: Counter,
    /// Transactions refused because a condition did not hold.
    pub conflicts: Counter,
    /// Retries that were answered from the request window.
    pub replays: Counter,
    /// Transactions that wait for their turn.
    pub waiting: Gauge,
    /// Log entries not applied yet.
    pub apply_lag: Gauge,
    /// How long applying an entry took, in seconds.
    pub apply_seconds: Histogram,
    /// Readers of the feed.
    pub readers: Gauge,
    /// Snapshots published.
    pub snapshots: Counter,
    /// Snapshots of peers taken over.
    pub installed: Counter,
    /// Transactions forwarded to the leader.
    pub forwarded: Counter,
    /// Rounds by which reads made sure that they are current.
    pub read_rounds: Counter,
    /// What is looked at from time to time, or when somebody asks.
    pub gauges: Gauges,
}

/// A moment's view of a replica, in numbers. Cheap to clone; clones are one.
#[derive(Debug, Clone, Default)]
pub struct Gauges {
    /// Transactions that may wait.
    pub waiting_limit: Gauge,
    /// 1: the log can't be written.
    pub log_failed: Gauge,
    /// 1: this server leads its cell.
    pub leads: Gauge,
    /// 1: this server knows who leads.
    pub leader_known: Gauge,
    /// Raft's term.
    pub term: Gauge,
    /// The last revision applied.
    pub revision: Gauge,
    /// The first revision that the feed still has.
    pub floor: Gauge,
    /// Revisions that the slowest reader of the feed has not read.
    pub behind: Gauge,
    /// Bytes of log since the last snapshot.
    pub snapshot_log: Gauge,
    /// Bytes of log after which a snapshot is due.
    pub snapshot_due: Gauge,
    /// The moment that the last snapshot shows, in seconds since 1970; 0: none.
    pub snapshot_time: Gauge,
    /// How long the last snapshot took, in seconds; 0: none since the start.
    pub snapshot_seconds: Gauge<f64, AtomicU64>,
    /// Snapshots that could not be made.
    pub snapshots_failed: Counter,
    /// Bytes free on the disk.
    pub disk_free: Gauge,
    /// Bytes that must be free for a write to be accepted.
    pub disk_required: Gauge,
    /// Bytes of each part of the data directory.
    pub disk_used: Family<Part, Gauge>,
    /// Rows in the store.
    pub rows: Gauge,
}

/// A part of the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Part {
    /// Its directory.
    pub part: &'static str,
}

/// Every part.
pub(crate) const PARTS: [&str; 4] = ["log", "changes", "snapshots", "store"];

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || Histogram::new((0..14).map(|power| 0.000_05 * f64::from(1 << power)));
        Self {
            fsyncs: Counter::default(),
            fsync_seconds: seconds(),
            group_transactions: Histogram::new((0..11).map(|power| f64::from(1 << power))),
            log_bytes: Counter::default(),
            committed: Counter::default(),
            conflicts: Counter::default(),
            replays: Counter::default(),
            waiting: Gauge::default(),
            apply_lag: Gauge::default(),
            apply_seconds: seconds(),
            readers: Gauge::default(),
            snapshots: Counter::default(),
            installed: Counter::default(),
            forwarded: Counter::default(),
            read_rounds: Counter::default(),
            gauges: Gauges::default(),
        }
    }
}

impl Metrics {
    /// Names every counter in a registry.
    pub fn register(&self, registry: &mut Registry) {
        let log = registry.sub_registry_with_prefix("flotilla_log");
        log.register("fsyncs", "fdatasync calls of the log", self.fsyncs.clone());
        let help = "How long fdatasync calls of the log took";
        log.register_with_unit("fsync", help, Unit::Seconds, self.fsync_seconds.clone());
        log.register("group_transactions", "Transactions in each log entry", self.group_transactions.clone());
        log.register_with_unit("written", "Bytes written to the log", Unit::Bytes, self.log_bytes.clone());
        log.register("committed", "Transactions acknowledged", self.committed.clone());
        log.register("conflicts", "Transactions refused because a condition did not hold", self.conflicts.clone());
        log.register("replays", "Retries answered from the request window", self.replays.clone());
        log.register("waiting", "Transactions that wait for their turn", self.waiting.clone());
        log.register("apply_lag", "Log entries not applied yet", self.apply_lag.clone());
        let help = "How long applying a log entry took";
        log.register_with_unit("apply", help, Unit::Seconds, self.apply_seconds.clone());
        log.register("snapshots", "Snapshots published", self.snapshots.clone());
        log.register("snapshots_installed", "Snapshots of peers taken over", self.installed.clone());
        log.register("forwarded", "Transactions forwarded to the leader", self.forwarded.clone());
        let help = "Rounds by which reads made sure that they are current";
        log.register("read_rounds", help, self.read_rounds.clone());
        let feed = registry.sub_registry_with_prefix("flotilla_feed");
        feed.register("readers", "Readers of the feed", self.readers.clone());
        self.gauges.register(registry);
    }
}

impl Gauges {
    fn register(&self, registry: &mut Registry) {
        let log = registry.sub_registry_with_prefix("flotilla_log");
        log.register("waiting_limit", "Transactions that may wait", self.waiting_limit.clone());
        log.register("failed", "1: the log can't be written", self.log_failed.clone());
        let raft = registry.sub_registry_with_prefix("flotilla_raft");
        raft.register("leads", "1: this server leads its cell", self.leads.clone());
        raft.register("leader_known", "1: this server knows who leads its cell", self.leader_known.clone());
        raft.register("term", "Raft's term", self.term.clone());
        let feed = registry.sub_registry_with_prefix("flotilla_feed");
        feed.register("revision", "The last revision applied", self.revision.clone());
        feed.register("floor_revision", "The first revision that the feed still has", self.floor.clone());
        let help = "Revisions that the slowest reader of the feed has not read";
        feed.register("behind_revisions", help, self.behind.clone());
        let snapshot = registry.sub_registry_with_prefix("flotilla_snapshot");
        snapshot.register_with_unit("log", "Log since the last snapshot", Unit::Bytes, self.snapshot_log.clone());
        let help = "Log after which a snapshot is due";
        snapshot.register_with_unit("due", help, Unit::Bytes, self.snapshot_due.clone());
        let help = "The moment that the last snapshot shows, since 1970; 0: none";
        snapshot.register_with_unit("timestamp", help, Unit::Seconds, self.snapshot_time.clone());
        let help = "How long the last snapshot took; 0: none since the start";
        snapshot.register("seconds", help, self.snapshot_seconds.clone());
        snapshot.register("failed", "Snapshots that could not be made", self.snapshots_failed.clone());
        let disk = registry.sub_registry_with_prefix("flotilla_disk");
        disk.register_with_unit("free", "Free where the data is", Unit::Bytes, self.disk_free.clone());
        let help = "What must be free for a write to be accepted";
        disk.register_with_unit("required", help, Unit::Bytes, self.disk_required.clone());
        let help = "Each part of the data directory";
        disk.register_with_unit("used", help, Unit::Bytes, self.disk_used.clone());
        registry.register("flotilla_store_rows", "Rows in the store", self.rows.clone());
    }
}

/// A number as a gauge has it.
pub(crate) fn gauge(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
