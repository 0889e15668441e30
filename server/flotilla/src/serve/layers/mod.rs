//! What every call of the main port passes, from the outside in: browsers' preflights (`web`),
//! gRPC-Web (tonic-web), counting and tracing (`count`, `trace`), shedding (`shed`), deadlines (`deadline`). What they answer
//! is in `refusal`.
//!
//! Counting stands inside gRPC-Web, where a call's code is still in its trailers.

pub(super) mod count;
pub(super) mod deadline;
pub(super) mod refusal;
pub(super) mod shed;
pub(super) mod trace;
pub(super) mod web;
