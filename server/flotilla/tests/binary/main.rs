//! The binary as people and programs meet it: real processes, real ports, real signals.
//!
//! Servers listen on port 0 and tell in their log which one they got. Nothing sleeps: what must
//! happen is waited for, with a deadline.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod backup;
mod calls;
mod cluster;
mod debug;
mod dev;
mod dev_three;
mod fake_cell;
mod harness;
mod import;
mod overload;
mod people;
mod remote;
mod rescan;
#[cfg(target_os = "linux")]
mod stalled;
mod start;
mod stop;
mod threads;
mod top;
mod tour;
mod traces;
mod watch;
mod web;
