//! The kit over a real log: what a service may rely on.

mod cell;
mod context;
mod tasks;
mod watch;
