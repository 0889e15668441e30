//! What a service is given, and what it must provide.
//!
//! # Layout
//!
//! * [`service`]: what a service provides, so that the binary can mount it.
//! * [`cursor`]: where a background task stands, moved with its effect.
//! * [`context`]: what a service is given: reads, commits, the feed.
//! * [`local`]: calls to other services, of the same server or of another cell.
//! * [`view`]: rows to read, one at a time or a page.
//! * [`call`]: who calls, until when, and how current an answer must be.
//! * [`request`]: request ids, and why a retry counts once.
//! * [`document`], [`fields`], [`mask`], [`etag`], [`page`], [`time`]: the conventions that
//!   all resources share.
//! * [`watch`]: streams of events with heartbeats and resets.
//! * [`tasks`]: what a service does in the background.
//! * [`metrics`]: where a service's own counters go.
//! * [`error`], [`status`]: what can go wrong, and the one table that says how
//!   it travels.
//!
//! It knows no service and no configuration. The log is below it, the
//! transport's listeners are above.

pub mod call;
pub mod context;
pub mod cursor;
pub mod document;
pub mod error;
pub mod etag;
pub mod fields;
pub mod local;
pub mod mask;
pub mod metrics;
pub mod page;
pub mod request;
pub mod service;
pub mod status;
pub mod tasks;
pub mod time;
pub mod view;
pub mod watch;

pub use call::Call;
pub use context::Context;
pub use cursor::TaskCursor;
pub use error::{Error, Refusal};
pub use fields::Violations;
pub use flotilla_replica::{Change, Committed, Consistency, Trace, Traced, traced};
pub use flotilla_store::{Row, RowChange, Space, TransactionBuilder};
pub use local::Local;
pub use metrics::MetricsRegistry;
pub use page::Page;
pub use request::Intent;
pub use service::{Built, Definition, Placement, Task};
pub use view::View;
