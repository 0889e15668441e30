//! Why a subscription is over.

use crate::CallError;

/// Why a subscription is over.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubscribeError {
    /// The server refuses it, for a reason that trying again doesn't remove.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Another subscription of the same device took over. Subscribing again would take over from that
    /// one: two copies of a program would do so for ever.
    #[error(
        "another subscription of the device {device:?} took over from this one; a device has one at a time, so each \
         copy of a program needs a device name of its own"
    )]
    TakenOver {
        /// The device.
        device: String,
    },
    /// The user was removed from all the threads that were named.
    #[error("the user is no longer a member of any of the threads that were subscribed to")]
    NoThreadLeft,
    /// The server left out events or sent some twice: a bug of the server.
    #[error(
        "the server sent event {sequence} of thread {thread_id} after event {after}: that is a bug of the server, and \
         the subscription stopped rather than hide it"
    )]
    NotDense {
        /// The thread.
        thread_id: String,
        /// The sequence before.
        after: u64,
        /// The sequence that came.
        sequence: u64,
    },
    /// The server sent an event of a thread that it hadn't started: a bug of the server.
    #[error("the server sent event {sequence} of thread {thread_id} without starting that thread: a bug of the server")]
    NotStarted {
        /// The thread.
        thread_id: String,
        /// The sequence that came.
        sequence: u64,
    },
    /// The server started a thread elsewhere than it was asked to, without a reset: a bug of the
    /// server.
    #[error(
        "the server started thread {thread_id} after {started} and not after {asked}, and didn't say why: that is a \
         bug of the server"
    )]
    Moved {
        /// The thread.
        thread_id: String,
        /// Where it was to start, `history:sequence`.
        asked: String,
        /// Where it started.
        started: String,
    },
}

/// Why a subscription didn't end well: the server doesn't know all that was acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the last acknowledgements, of {threads} threads, didn't arrive: {reason}")]
pub struct CloseError {
    /// How many threads they are of.
    pub threads: usize,
    /// Why.
    pub reason: String,
}
