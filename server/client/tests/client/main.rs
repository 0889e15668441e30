//! The client against servers that break on purpose. Those of `double` are connected in memory and time is the
//! runtime's, so nothing here waits and no pause is left to chance.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod acks;
mod balance;
mod calls;
mod double;
mod fleet;
mod subscriptions;
