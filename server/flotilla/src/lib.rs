//! The Flotilla server and its command line.
//!
//! # Layout
//!
//! * [`config`]: what a server is told, and what the command line is told.
//! * [`services`]: the list of services. Adding one is adding a line.
//! * [`serve`]: from a config to a server that runs, and back to nothing. Listeners and the
//!   signal to stop are injected, so that tests run whole servers in their own process.
//! * [`cli`]: the commands; one command, one file.
//! * [`telemetry`] is logging; [`log_control`] changes it at runtime.
//!
//! The server never guesses: without services in its config it doesn't start. The command line
//! never touches data except through the API.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a panic is how a test fails"))]

pub mod cli;
pub mod config;
pub mod log_control;
pub mod serve;
pub mod services;
pub mod telemetry;
