//! Rows, grouped into tables and spaces, changed only by transactions.
//!
//! # Layout
//!
//! * [`space`]: what a space is and how a row's key is written.
//! * [`transaction`]: building a [`Transaction`], its limits and its outcome.
//! * [`draft`]: what transactions do to rows, as a pure function of the rows.
//! * [`store`]: the rows on disk. The only module that knows sled.
//! * [`recent`], [`merge`]: the rows written last, which go to sled together.
//! * [`point_in_time`]: reading all rows as of one moment while writes go on.
//! * [`hash`]: the order-independent hash of a space.
//!
//! This crate decides nothing about durability: the store is derived from the
//! log (`flotilla-replica`) and can be deleted and rebuilt. It reads no clock,
//! no randomness and no configuration, so that every server of a cell that
//! applies the same transactions holds the same rows.

pub mod draft;
pub mod hash;
pub mod limits;
mod merge;
pub mod point_in_time;
mod recent;
pub mod space;
pub mod store;
pub mod transaction;

pub use draft::{Draft, Outcome};
pub use flotilla_proto::storage::v1::{Applied, Row, RowChange, Transaction};
pub use point_in_time::PointInTime;
pub use space::{RowKey, Space};
pub use store::{Store, StoreError};
pub use transaction::{InvalidTransaction, TransactionBuilder};
