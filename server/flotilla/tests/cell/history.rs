//! What clients asked and were answered, by one clock, and what must therefore be so.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::linearizability::{self, Operation, Value};

/// So many operations of one register are enough: the next go to another.
const LONG_ENOUGH: usize = 150;

/// Everything that all clients know.
pub(crate) struct History {
    began: Instant,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// By the record's id.
    registers: BTreeMap<String, Vec<Operation>>,
    /// The registers in use, by group of clients.
    current: BTreeMap<usize, u64>,
    /// The etag that each value was seen with: one write, one etag.
    etags: HashMap<Value, String>,
    /// Records that were created once and never changed.
    created: Vec<Created>,
    /// When changes were acknowledged.
    acknowledged: Vec<u64>,
    slowest: Duration,
    retries: usize,
    /// Changes of which nothing was heard, in time.
    unknown: usize,
}

/// One that no client changes.
#[derive(Debug, Clone)]
pub(crate) struct Created {
    pub(crate) id: String,
    pub(crate) request_id: String,
    /// As it was acknowledged; none: it wasn't.
    pub(crate) etag: Option<String>,
}

impl History {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), known: Mutex::default() }
    }

    /// The time of this history, in nanoseconds.
    pub(crate) fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// The register that a group of clients works on now.
    pub(crate) fn register(&self, group: usize) -> String {
        let mut known = self.known();
        let current = known.current.get(&group).copied().unwrap_or(0);
        let name = format!("group-{group}-{current}");
        if known.registers.get(&name).is_some_and(|operations| operations.len() >= LONG_ENOUGH) {
            known.current.insert(group, current + 1);
            return format!("group-{group}-{}", current + 1);
        }
        name
    }

    /// Every register that there is.
    pub(crate) fn registers(&self) -> Vec<String> {
        self.known().registers.keys().cloned().collect()
    }

    pub(crate) fn record(&self, register: &str, operation: Operation) {
        self.known().registers.entry(register.to_owned()).or_default().push(operation);
    }

    pub(crate) fn record_created(&self, created: Created) {
        self.known().created.push(created);
    }

    /// A change was acknowledged now, after so many further tries.
    pub(crate) fn acknowledge(&self, took: Duration, retries: usize) {
        let now = self.now();
        let mut known = self.known();
        known.acknowledged.push(now);
        known.slowest = known.slowest.max(took);
        known.retries += retries;
    }

    pub(crate) fn give_up(&self) {
        self.known().unknown += 1;
    }

    /// A value was written or read with this etag: it must be the one it always had, or it was written twice.
    pub(crate) fn see(&self, value: Value, etag: &str) {
        let mut known = self.known();
        let former = known.etags.entry(value).or_insert_with(|| etag.to_owned());
        assert_eq!(former, etag, "value {value} has another etag than before: it was written twice");
    }

    /// How many changes were acknowledged between two moments.
    pub(crate) fn acknowledged(&self, from: u64, to: u64) -> usize {
        self.known().acknowledged.iter().filter(|at| (from..to).contains(at)).count()
    }

    /// The longest that a change took from its first try to its answer.
    pub(crate) fn slowest(&self) -> Duration {
        self.known().slowest
    }

    pub(crate) fn created(&self) -> Vec<Created> {
        self.known().created.clone()
    }

    /// Each register's history could have happened one operation at a time.
    pub(crate) fn is_linearizable(&self) {
        let known = self.known();
        for (register, operations) in &known.registers {
            if let Err(refused) = linearizability::check(operations) {
                panic!("what clients saw of {register} can't have happened in any order: {refused}");
            }
        }
        assert_eq!(known.unknown, 0, "changes that were not answered although everything was healed");
    }

    /// In a sentence.
    pub(crate) fn summary(&self) -> String {
        let known = self.known();
        let operations: usize = known.registers.values().map(Vec::len).sum();
        format!(
            "{operations} operations on {} registers, {} records created; {} changes acknowledged, {} further tries, \
             the slowest change took {:.1?}",
            known.registers.len(),
            known.created.len(),
            known.acknowledged.len(),
            known.retries,
            known.slowest
        )
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
