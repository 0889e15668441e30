//! Carries calls between the servers of a cell over gRPC.
//!
//! # Layout
//!
//! * [`network`]: calls others; [`server`]: is called by others, and hands over to the replica.
//! * `connections`, `route`: one connection an address and class of calls, and the way of one call.
//! * `metadata`: the introduction that goes along with every call.
//! * `refusals`: why a peer isn't listened to, as a status and back; `tally` counts and tells it.
//! * `faults`: streams that end because a message in them was bad.
//! * [`secret`]: what the servers of a cell share.
//!
//! Who may do what is decided by the [`Host`](flotilla_replica::peer::Host). Nothing of config is read
//! here.

mod connections;
mod faults;
mod metadata;
pub mod network;
mod refusals;
mod route;
pub mod secret;
pub mod server;
mod service;
mod tally;

pub use network::PeerNetwork;
pub use secret::{Secret, SecretError};
pub use server::PeerServer;
pub use tally::Metrics;
