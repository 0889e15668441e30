//! The client against a server that breaks on purpose. Connections are in memory and time is the
//! runtime's, so nothing here waits and no pause is left to chance.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod acks;
mod calls;
mod double;
mod subscriptions;
