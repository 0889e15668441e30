//! The service as its clients see it: over a connection, on a real log.

mod batch;
mod list;
mod paging;
mod record;
mod server;
mod watch;
