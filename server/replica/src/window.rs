//! The requests that are remembered, so that a retry counts once and gets its
//! first answer.
//!
//! Part of the replicated state: what is remembered, and for how long, depends
//! only on the log. Kept in memory; on disk it is the change records.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use flotilla_proto::storage::v1::{Request, WindowEntry};
use xxhash_rust::xxh3::Xxh3;

/// Requests that are remembered at most.
pub(crate) const MAX_ENTRIES: usize = 100_000;
/// How long a request is remembered, in microseconds of the log's time.
pub(crate) const MAX_AGE: u64 = 10 * 60 * 1_000_000;

/// `Request.key` for one request of one caller.
pub fn request_key(caller: &str, method: &str, request_id: &str) -> Bytes {
    let mut hasher = Xxh3::new();
    for part in [caller, method, request_id] {
        // The lengths keep ("ab", "c") and ("a", "bc") apart.
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.digest128().to_be_bytes().to_vec().into()
}

/// The remembered requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Window {
    by_key: HashMap<Bytes, Arc<WindowEntry>>,
    /// Oldest first.
    by_age: VecDeque<Arc<WindowEntry>>,
}

impl Window {
    /// What is remembered of a request.
    pub(crate) fn get(&self, request: &Request) -> Option<&Arc<WindowEntry>> {
        self.by_key.get(&request.key)
    }

    /// Remembers a request. Revisions must ascend.
    pub(crate) fn insert(&mut self, mut entry: WindowEntry) {
        let Some(request) = &mut entry.request else { return };
        // Copies, because these bytes are slices of a whole log entry, which
        // they would keep in memory.
        request.key = Bytes::copy_from_slice(&request.key);
        request.answer = Bytes::copy_from_slice(&request.answer);
        let key = request.key.clone();
        let entry = Arc::new(entry);
        self.by_age.push_back(entry.clone());
        self.by_key.insert(key, entry);
    }

    /// Forgets what is too old, as of a time, or too much.
    pub(crate) fn forget_old(&mut self, now: u64) {
        let too_old = |entry: &WindowEntry| entry.time.saturating_add(MAX_AGE) < now;
        while self.by_age.len() > MAX_ENTRIES || self.by_age.front().is_some_and(|entry| too_old(entry)) {
            self.forget_first();
        }
    }

    /// Forgets what was committed below a revision: its change record is gone.
    pub(crate) fn forget_below(&mut self, floor: u64) {
        while self.by_age.front().is_some_and(|entry| entry.revision < floor) {
            self.forget_first();
        }
    }

    /// The revision of the oldest remembered request.
    pub(crate) fn first_revision(&self) -> Option<u64> {
        self.by_age.front().map(|entry| entry.revision)
    }

    /// Oldest first.
    pub(crate) fn entries(&self) -> impl ExactSizeIterator<Item = &Arc<WindowEntry>> {
        self.by_age.iter()
    }

    fn forget_first(&mut self) {
        let Some(entry) = self.by_age.pop_front() else { return };
        let Some(request) = &entry.request else { return };
        // The key may have been remembered anew since.
        if self.by_key.get(&request.key).is_some_and(|known| known.revision == entry.revision) {
            self.by_key.remove(&request.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(revision: u64, time: u64) -> WindowEntry {
        let key = request_key("ada", "Create", &revision.to_string());
        let request = Some(Request { key, fingerprint: revision, answer: Bytes::new() });
        WindowEntry { revision, time, request, results: Vec::new() }
    }

    fn remembers(window: &Window, revision: u64) -> bool {
        window.get(entry(revision, 0).request.as_ref().expect("a request")).is_some()
    }

    #[test]
    fn a_request_is_forgotten_after_ten_minutes_of_log_time() {
        let mut window = Window::default();
        window.insert(entry(1, 1_000));
        window.forget_old(1_000 + MAX_AGE);
        assert!(remembers(&window, 1));
        window.forget_old(1_001 + MAX_AGE);
        assert!(!remembers(&window, 1));
    }

    #[test]
    fn the_oldest_request_goes_when_there_are_too_many() {
        let mut window = Window::default();
        for revision in 1..=MAX_ENTRIES as u64 + 1 {
            window.insert(entry(revision, 0));
        }
        window.forget_old(0);
        assert!(!remembers(&window, 1));
        assert!(remembers(&window, 2));
        assert_eq!(window.entries().len(), MAX_ENTRIES);
    }

    #[test]
    fn parts_of_a_request_key_do_not_run_together() {
        assert_ne!(request_key("ab", "c", "d"), request_key("a", "bc", "d"));
    }
}
