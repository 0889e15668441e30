//! Bounds the bytes of all messages that are being received or worked on.
//!
//! A message may have 4 MiB and there are places for thousands, so the places alone bound nothing
//! that a small machine has.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::{Status, body::Body};

use crate::serve::layers::refusal;

/// The bytes of all requests.
pub(super) struct Memory {
    taken: AtomicU64,
    bound: u64,
}

/// The bytes of one request, given back when the last of its holders is gone.
pub(super) struct Taken {
    memory: Arc<Memory>,
    bytes: AtomicU64,
}

impl Memory {
    pub(super) fn new(bound: u64) -> Arc<Self> {
        Arc::new(Self { taken: AtomicU64::new(0), bound })
    }

    /// Counts for a request, which has sent nothing yet.
    pub(super) fn begin(self: &Arc<Self>) -> Arc<Taken> {
        Arc::new(Taken { memory: self.clone(), bytes: AtomicU64::new(0) })
    }
}

impl Taken {
    fn take(&self, bytes: u64) -> Result<(), Status> {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let taken = self.memory.taken.fetch_add(bytes, Ordering::Relaxed) + bytes;
        match taken > self.memory.bound {
            true => Err(refusal::out_of_memory(self.memory.bound)),
            false => Ok(()),
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.memory.taken.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

/// A request's body that is counted as it comes.
pub(super) fn counted(inner: Body, taken: Arc<Taken>) -> Body {
    Body::new(Counted { inner, taken })
}

pin_project! {
    struct Counted {
        #[pin]
        inner: Body,
        taken: Arc<Taken>,
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref())
            && let Err(refused) = this.taken.take(data.len() as u64)
        {
            return Poll::Ready(Some(Err(refused)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use tonic::Code;

    use super::*;

    async fn read(mut body: Body) -> Result<usize, Status> {
        let mut bytes = 0;
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(bytes)
    }

    fn body(bytes: usize) -> Body {
        Body::new(axum::body::Body::from(vec![0; bytes]))
    }

    #[tokio::test]
    async fn a_message_for_which_there_is_no_room_is_refused_until_another_is_done() {
        let memory = Memory::new(100);
        let first = memory.begin();
        assert_eq!(read(counted(body(80), first.clone())).await.unwrap(), 80);
        let refused = read(counted(body(30), memory.begin())).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        drop(first);
        assert_eq!(read(counted(body(30), memory.begin())).await.unwrap(), 30);
        assert_eq!(memory.taken.load(Ordering::Relaxed), 0);
    }
}
