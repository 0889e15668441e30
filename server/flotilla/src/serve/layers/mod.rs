//! What every call of the main port passes, from the outside in: the cell's own way past it all (`peers`),
//! browsers' preflights (`web`), gRPC-Web (tonic-web), counting (`count`), which traces calls (`trace`) and tells of slow ones (`slow`), admission
//! (`admission`), deadlines (`deadline`), and whether the server is ready (`ready`). What they answer
//! is in `refusal`.
//!
//! Counting stands inside gRPC-Web, where a call's code is still in its trailers.

pub(super) mod admission;
pub(super) mod count;
pub(super) mod deadline;
pub(super) mod peers;
pub(super) mod ready;
pub(super) mod refusal;
pub(super) mod slow;
pub(super) mod trace;
pub(super) mod web;
