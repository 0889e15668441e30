//! One durable, replicated log, and what applying it yields: rows and change
//! records.
//!
//! # Layout
//!
//! * [`replica`]: the handle that everything above uses. Open, propose, read,
//!   follow the feed, check, shut down.
//! * [`batcher`]: transactions that wait together become one log entry.
//! * [`log`]: entries and votes on disk; one fsync a group.
//! * [`machine`]: applies entries to the store and writes change records.
//! * [`changes`], [`feed`]: change records on disk, and reading them in order.
//! * [`window`]: the requests that are remembered so that a retry counts once.
//! * [`snapshot`]: the rows in one file, so that the log can be purged.
//! * [`backup`], [`restore`]: a snapshot that leaves the server, and a directory made from one.
//! * [`identity`]: whose data a directory holds, and who uses it now.
//! * [`open`]: from a data directory to all of the above; rebuilds what is derived.
//! * [`peer`]: the seam to the other servers of the cell.
//! * [`upkeep`]: snapshots, retention, the disk's free space, leadership.
//! * [`sizes`]: how much of all this there is.
//! * [`segment`]: the checksummed files that log and changes are made of.
//! * [`trace`]: the spans of traced requests, and the revisions that came of them.
//! * [`disk`], [`clock`]: the seams that a simulation replaces.
//!
//! The only crate that names openraft. It reads no configuration and no
//! environment: [`replica::Options`] has everything.

pub mod backup;
mod batcher;
pub mod changes;
pub mod clock;
pub mod disk;
pub mod error;
pub mod feed;
mod identity;
mod log;
mod machine;
pub mod metrics;
mod network;
mod open;
pub mod peer;
mod raft;
pub mod replica;
pub mod restore;
mod segment;
pub mod sizes;
mod snapshot;
pub mod trace;
mod upkeep;
mod window;

pub use backup::{Backup, BackupInfo, BackupPlace};
pub use error::{BackupError, CheckError, FeedError, OpenError, ProposeError, ReadError, RestoreError, Unreadable};
pub use feed::{Cursor, Feed};
pub use flotilla_proto::storage::v1::Change;
pub use metrics::Metrics;
pub use replica::{CheckReport, Committed, Consistency, Options, Replica, SpaceCheck, Status};
pub use restore::{RestoreOptions, Restored, restore};
pub use sizes::Sizes;
pub use trace::{Trace, Traced};
pub use window::request_key;
