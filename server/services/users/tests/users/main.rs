//! The service as its clients see it: over a connection, on a real log.

mod change;
mod create;
mod list;
mod paging;
mod server;
mod watch;
