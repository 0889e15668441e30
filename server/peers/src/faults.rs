//! Streams in which one message is bad: the stream of requests ends there, and the answers end with
//! the reason. What came before it was good.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use flotilla_replica::peer::{Answers, MAX_MESSAGE, PeerError, Refusal, Requests};
use futures::{Stream, StreamExt, future, stream};
use prost::Message;
use tonic::{Status, Streaming};

use crate::refusals::Refused;

/// Why a stream of requests ended early, if it did.
#[derive(Clone, Default)]
pub(crate) struct Fault(Arc<OnceLock<Refused>>);

impl Fault {
    fn set(&self, message: impl Into<String>) {
        // The first one ended the stream.
        let _ = self.0.set(Refused::new(Refusal::Malformed, message));
    }
}

/// A message is larger than peers take.
pub(crate) fn too_large(message: &impl Message) -> Option<Refused> {
    let length = message.encoded_len();
    (length > MAX_MESSAGE).then(|| {
        Refused::new(Refusal::Malformed, format!("a message of {length} bytes; peers take {MAX_MESSAGE} at most"))
    })
}

/// What is sent, up to a message that is too large. A type of its own, because the compiler loses
/// sight of a boxed stream's `'static` within an async block.
pub(crate) struct Outgoing<T> {
    requests: Requests<T>,
    fault: Fault,
}

impl<T> Outgoing<T> {
    pub(crate) fn new(requests: Requests<T>, fault: Fault) -> Self {
        Self { requests, fault }
    }
}

impl<T: Message> Stream for Outgoing<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let Some(request) = ready!(self.requests.poll_next_unpin(context)) else { return Poll::Ready(None) };
        let Some(refused) = too_large(&request) else { return Poll::Ready(Some(request)) };
        self.fault.set(refused.message);
        Poll::Ready(None)
    }
}

/// What came, up to a message that can't be read or is too large. A connection that breaks ends it
/// too, but is no fault of the messages.
pub(crate) fn incoming<T: Send + 'static>(requests: Streaming<T>, fault: Fault) -> Requests<T> {
    let good = move |request: Result<T, Status>| {
        let request = request.map_err(|status| {
            if std::error::Error::source(&status).is_none() {
                fault.set(status.message());
            }
        });
        future::ready(request.ok())
    };
    requests.scan((), move |(), request| good(request)).boxed()
}

/// Answers that end at their first error, or with the fault of the requests.
pub(crate) fn answers<T: Send + 'static>(answers: Answers<T>, fault: Fault) -> Answers<T> {
    let next = |state: Option<(Answers<T>, Fault)>| async move {
        let (mut answers, fault) = state?;
        match answers.next().await {
            Some(Ok(answer)) => Some((Ok(answer), Some((answers, fault)))),
            Some(Err(error)) => Some((Err(error), None)),
            None => fault.0.get().cloned().map(|refused| (Err(PeerError::from(refused)), None)),
        }
    };
    stream::unfold(Some((answers, fault)), next).boxed()
}
