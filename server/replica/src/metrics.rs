//! What the log and the feed count, in Prometheus' terms.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
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
}

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
        let feed = registry.sub_registry_with_prefix("flotilla_feed");
        feed.register("readers", "Readers of the feed", self.readers.clone());
    }
}
