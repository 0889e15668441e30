//! Calls between servers, over real sockets, to a host that remembers what reached it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod calls;
mod connections;
mod harness;
mod refusals;
mod secrets;
mod streams;
