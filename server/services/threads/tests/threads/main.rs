//! The service as its clients see it: over a connection, on a real log, beside
//! the users service.

mod acks;
mod events;
mod members;
mod presence;
mod push;
mod renames;
mod server;
mod threads;
