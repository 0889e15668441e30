//! What opening a replica needs to know.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    OpenError,
    cell::{About, PeerAddresses},
    clock::{Clock, SystemClock},
    disk::{Disk, SystemDisk},
    peer::{Network, NoPeers},
};

/// The format of log entries that this version writes, once every voter reads it.
pub const ENTRY_FORMAT: u32 = 1;

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
    /// How many servers of the cell vote, as config wants it; a cell is formed by so many, and servers
    /// of higher numbers are learners.
    pub voters: u64,
    /// Where config says that the servers of the cell are, this one included; none: this server is
    /// alone, and forms its cell by itself.
    pub peers: Option<PeerAddresses>,
    /// Reaches them.
    pub network: Arc<dyn Network>,
    /// How often a leader says that it is there.
    pub heartbeat: Duration,
    /// How long after a leader's last word another is elected, at most about this.
    pub election: Duration,
    /// What this server says of itself to others.
    pub about: About,
    /// The newest format of log entries that this server reads and writes.
    pub entry_format: u32,
    /// Whether log I/O has a thread of its own. A simulation, which runs on
    /// one thread to be repeatable, says no.
    pub log_thread: bool,
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
            voters: 1,
            peers: None,
            network: Arc::new(NoPeers),
            heartbeat: Duration::from_millis(100),
            election: Duration::from_millis(800),
            about: About::default(),
            entry_format: ENTRY_FORMAT,
            log_thread: true,
        }
    }

    /// openraft's configuration.
    ///
    /// A follower takes a leader for gone when nothing came for `election_timeout_max` and then, drawn
    /// anew each time, between `min` and `max`: together between three quarters of `election` and all
    /// of it.
    pub(crate) fn raft(&self) -> Result<Arc<openraft::Config>, OpenError> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let election = millis(self.election).max(8);
        let config = openraft::Config {
            cluster_name: self.cell.clone(),
            heartbeat_interval: millis(self.heartbeat).max(1),
            election_timeout_min: election / 4,
            election_timeout_max: election / 2,
            enable_pre_vote: Some(true),
            // A leader that lost what it had not flushed would give out its term's indexes anew.
            enable_leader_restore: Some(false),
            // Snapshots are made in `upkeep`, which tells Raft when one is there, and how much of the
            // log may go then.
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
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
}
