//! Push: from the applied log to every subscriber of this server.
//!
//! # Layout
//!
//! * `hub`: one task reads the feed, and hands each event, encoded once, to the
//!   channel of its thread. Knows who is connected.
//! * `channel`: a thread's recent events and its subscriptions.
//! * `subscriber`: what the hub knows of a stream: how to wake it, and which of
//!   its threads have news.
//! * `open`: from a request to a stream: who may have what, from where on.
//! * `stream`: the stream itself, pulled by the transport.
//! * `metrics`: what is counted.
//! * `server`: serves Subscribe with bytes that are encoded already.
//!
//! A subscription is an offset into its thread's outbox. The hub never waits
//! for a subscriber and keeps no queue for one: a stream takes what comes next
//! from its channel's recent events, or, if it is behind those, from the outbox.
//! What the hub keeps is bounded, whoever is slow.

mod channel;
mod hub;
mod metrics;
mod open;
mod server;
mod stream;
mod subscriber;

pub(crate) use hub::{Hub, Presence};
pub(crate) use open::open;
pub(crate) use server::Server;
pub(crate) use stream::Pushing;
