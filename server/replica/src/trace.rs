//! Where a request's spans belong, and which revisions came of traced
//! requests.
//!
//! A span is a `tracing` span of the target [`TARGET`] that names its trace,
//! itself and its parent in fields, because a parent may have ended (or be on
//! another server) when its child begins. Spans are made for sampled requests
//! only: without a [`Trace`] nothing here costs anything. Where spans go is
//! the binary's business.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use flotilla_proto::storage::v1::Change;

#[doc(hidden)]
pub use tracing;

/// The target of the spans of traces, and of nothing else.
pub const TARGET: &str = "flotilla::trace";

/// A span of a sampled request, by its ids: what its children need to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// The trace's id, of W3C's trace context; never 0.
    pub id: u128,
    /// The span's id; never 0.
    pub span: u64,
}

impl Trace {
    /// A new span of the same trace.
    pub fn child(self) -> Self {
        // ULIDs end in 80 random bits.
        Self { id: self.id, span: (ulid::Ulid::new().0 as u64).max(1) }
    }
}

/// An open span. It ends when this is dropped.
#[derive(Debug)]
pub struct Traced {
    trace: Trace,
    span: tracing::Span,
}

impl Traced {
    /// For [`traced!`](crate::traced).
    #[doc(hidden)]
    pub fn new(trace: Trace, span: tracing::Span) -> Self {
        Self { trace, span }
    }

    /// What its children are made from.
    pub fn trace(&self) -> Trace {
        self.trace
    }

    /// Fills in a field that was declared empty.
    pub fn record<V: tracing::Value>(&self, field: &str, value: V) {
        self.span.record(field, value);
    }
}

/// Begins a span under a [`Trace`]: `traced!(trace, "push", bytes = 5)`. Its
/// fields are its attributes; one that is known later is declared
/// `tracing::field::Empty`.
#[macro_export]
macro_rules! traced {
    ($parent:expr, $name:literal $(, $field:ident = $value:expr)* $(,)?) => {{
        let parent: $crate::Trace = $parent;
        let own = parent.child();
        let span = $crate::trace::tracing::info_span!(
            target: $crate::trace::TARGET,
            parent: None,
            $name,
            trace_id = own.id,
            span_id = own.span,
            parent_id = parent.span,
            $($field = $value),*
        );
        $crate::trace::Traced::new(own, span)
    }};
}

/// Revisions that are remembered.
const REVISIONS: usize = 1024;
/// Traced transactions that are under way; one that comes when there are more
/// gets no revision here.
const UNDER_WAY: usize = 1024;

/// Which revisions came of traced transactions of this server: the last 1,024.
#[derive(Default)]
pub(crate) struct Traces {
    /// Those under way, so that nobody takes the lock for none.
    under_way: AtomicUsize,
    /// The last revision remembered.
    newest: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By the key of the request.
    under_way: HashMap<Bytes, Trace>,
    revisions: VecDeque<(u64, Trace)>,
}

impl Traces {
    /// A traced transaction is about to go into the log. Forgotten with the
    /// guard, whatever becomes of it.
    pub(crate) fn expect(&self, key: Bytes, trace: Trace) -> Option<Expected<'_>> {
        let mut state = self.state();
        if state.under_way.len() >= UNDER_WAY {
            return None;
        }
        state.under_way.insert(key.clone(), trace);
        self.under_way.store(state.under_way.len(), Ordering::Release);
        Some(Expected { traces: self, key })
    }

    /// These changes are about to be published.
    pub(crate) fn note(&self, changes: &[Change]) {
        if self.under_way.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut state = self.state();
        for change in changes {
            let Some(request) = &change.request else { continue };
            let Some(&trace) = state.under_way.get(&request.key) else { continue };
            if state.revisions.len() == REVISIONS {
                state.revisions.pop_front();
            }
            state.revisions.push_back((change.revision, trace));
            self.newest.store(change.revision, Ordering::Release);
        }
    }

    /// The span of the transaction that made a revision, if it was traced and
    /// not long ago.
    pub(crate) fn of(&self, revision: u64) -> Option<Trace> {
        if self.newest.load(Ordering::Acquire) < revision {
            return None;
        }
        let state = self.state();
        let found = state.revisions.binary_search_by_key(&revision, |(revision, _)| *revision).ok()?;
        state.revisions.get(found).map(|(_, trace)| *trace)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A traced transaction under way.
pub(crate) struct Expected<'a> {
    traces: &'a Traces,
    key: Bytes,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        let mut state = self.traces.state();
        state.under_way.remove(&self.key);
        self.traces.under_way.store(state.under_way.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::storage::v1::Request;

    use super::*;

    fn change(revision: u64, key: &'static str) -> Change {
        let request = Request { key: Bytes::from_static(key.as_bytes()), ..Request::default() };
        Change { revision, request: Some(request), ..Change::default() }
    }

    const TRACE: Trace = Trace { id: 7, span: 8 };

    #[test]
    fn a_revision_leads_to_the_span_of_its_transaction_and_no_other_does() {
        let traces = Traces::default();
        let expected = traces.expect("a".into(), TRACE);
        traces.note(&[change(1, "b"), change(2, "a")]);
        drop(expected);
        traces.note(&[change(3, "a")]);
        assert_eq!([1, 2, 3].map(|revision| traces.of(revision)), [None, Some(TRACE), None]);
    }

    #[test]
    fn only_the_last_revisions_are_remembered_and_so_many_transactions_expected() {
        let traces = Traces::default();
        let _expected = traces.expect("a".into(), TRACE);
        for revision in 1..=REVISIONS as u64 + 1 {
            traces.note(&[change(revision, "a")]);
        }
        assert_eq!((traces.of(1), traces.of(2)), (None, Some(TRACE)));
        let keys = (1..UNDER_WAY).map(|number| traces.expect(number.to_string().into(), TRACE));
        let keys: Vec<_> = keys.collect();
        assert!(keys.iter().all(Option::is_some) && traces.expect("more".into(), TRACE).is_none());
    }
}
