//! One durable, replicated log, and what applying it yields: rows and change
//! records.
//!
//! # Layout
//!
//! The handle: [`replica`] is opened with [`options`], becomes ready in [`start`], takes transactions in
//! [`propose`], reads in [`read`], checks in [`check`] and tells of its cell in [`servers`].
//!
//! The log:
//! * [`batcher`]: transactions that wait together become one log entry.
//! * [`log`]: entries and votes on disk; one fsync a group. [`segment`]: the checksummed files.
//! * [`raft`]: openraft's types.
//!
//! The other servers:
//! * [`peer`]: the seam to them. [`network`]: openraft's calls over it; [`host`]: what comes in;
//!   [`translate`]: the messages.
//! * [`cell`]: what this server knows of itself and its cell; [`leadership`]: who leads; [`survey`]: how the
//!   others do; [`members`]: how the cell is formed and changed.
//! * [`forward`]: transactions on their way to the leader; [`read_index`]: what a read must see.
//!
//! What applying the log yields:
//! * [`machine`]: applies entries to the store and writes change records; [`checks`]: what checks found.
//! * [`changes`], [`feed`]: change records on disk, and reading them in order.
//! * [`window`]: the requests that are remembered so that a retry counts once.
//! * [`snapshot`]: the rows in one file, so that the log can be purged, on disk and between servers.
//! * [`backup`], [`restore`], [`recover`]: a snapshot that leaves the server, and a directory made from
//!   one, or from what a lost cell has left.
//!
//! Around it:
//! * [`identity`], [`open`], [`stores`]: from a data directory to all of the above; rebuilds what is derived.
//! * [`upkeep`]: snapshots, retention, the disk's free space.
//! * [`metrics`], [`sizes`], [`trace`]: how much, how large, and where a request is.
//! * [`disk`], [`clock`]: the seams that a simulation replaces. [`runtime`]: the chance that it seeds.
//!
//! What takes time is a boxed future: its code, with all of openraft's, is then made once, here, and not
//! again in every crate and test that waits for it.
//!
//! The only crate that names openraft. It reads no configuration and no
//! environment: [`Options`] has everything.

pub mod backup;
mod batcher;
mod cell;
pub mod changes;
mod check;
mod checks;
pub mod clock;
pub mod disk;
pub mod error;
pub mod feed;
mod forward;
mod host;
mod identity;
mod leadership;
mod log;
mod machine;
mod members;
pub mod metrics;
mod network;
mod open;
mod options;
pub mod peer;
mod propose;
mod raft;
mod read;
mod read_index;
pub mod recover;
pub mod replica;
pub mod restore;
mod runtime;
mod segment;
mod servers;
pub mod sizes;
mod snapshot;
mod start;
mod stores;
mod survey;
pub mod trace;
mod translate;
mod upkeep;
mod window;

pub use backup::{Backup, BackupInfo, BackupPlace};
pub use cell::{About, PeerAddresses};
pub use check::{CheckReport, ServerCheck, SpaceCheck};
pub use error::{
    BackupError, CheckError, FeedError, OpenError, ProposeError, ReadError, RecoverError, RestoreError, Unreadable,
};
pub use feed::{Cursor, Feed};
pub use flotilla_proto::storage::v1::Change;
pub use members::{ChangeError, FormError};
pub use metrics::Metrics;
pub use options::{ENTRY_FORMAT, Options};
pub use recover::{RecoverOptions, Recovered, recover};
pub use replica::{Committed, Consistency, Replica, Status};
pub use restore::{RestoreOptions, Restored, restore};
#[doc(hidden)]
pub use runtime::draw_from_seed;
pub use servers::{ServerState, ServerStatus};
pub use sizes::Sizes;
pub use trace::{Trace, Traced};
pub use window::request_key;
