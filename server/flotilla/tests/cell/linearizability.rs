//! Whether what clients saw of one register could have happened one operation at a time, each between its invocation
//! and its answer.
//!
//! The search is Wing and Gong's with Lowe's memory of states that were tried, as Porcupine does it. `stateright`'s
//! tester, which has no such memory and takes forever on a history of hundreds of operations, is its judge on short
//! random ones (`self_test.rs`).

use std::collections::HashSet;

/// A value of the register. Every write has its own, so that a read tells which write it saw.
pub(crate) type Value = u64;

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Answered with [`Answer::Value`].
    Read,
    /// Answered with [`Answer::Done`].
    Write(Value),
    /// Write the second if the first is there, or nothing is if it is absent; [`Answer::Done`] or [`Answer::Stale`].
    Swap(Option<Value>, Value),
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    Value(Option<Value>),
    Done,
    Stale,
}

/// One operation of one client. Times are of one clock for all clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) client: usize,
    pub(crate) action: Action,
    pub(crate) invoked: u64,
    /// With the time of its arrival. Absent: unknown; it happened at any time after the invocation, or never.
    pub(crate) answer: Option<(u64, Answer)>,
}

/// Why a history is refused: as far as any order of it goes.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The longest order that was found.
    pub(crate) order: Vec<Operation>,
    /// The register after it.
    pub(crate) value: Option<Value>,
    /// What would have to come next, and none of it can.
    pub(crate) stuck: Vec<Operation>,
}

/// Holds a history of a register that is absent at first against the rule.
pub(crate) fn check(history: &[Operation]) -> Result<(), Refused> {
    Search::new(history).run()
}

struct Search {
    /// By invocation.
    operations: Vec<Operation>,
    /// Which operations are in the order so far, as bits.
    taken: Vec<u64>,
    /// How many answered ones aren't.
    left: usize,
    order: Vec<usize>,
    value: Option<Value>,
    tried: HashSet<(Vec<u64>, Option<Value>)>,
    longest: (Vec<usize>, Option<Value>),
}

impl Search {
    fn new(history: &[Operation]) -> Self {
        let mut operations = history.to_vec();
        operations.sort_by_key(|operation| operation.invoked);
        let taken = vec![0; operations.len().div_ceil(64)];
        let left = operations.iter().filter(|operation| operation.answer.is_some()).count();
        let longest = (Vec::new(), None);
        Self { operations, taken, left, order: Vec::new(), value: None, tried: HashSet::new(), longest }
    }

    fn run(mut self) -> Result<(), Refused> {
        // The values before each step, and where to go on when the step is taken back.
        let mut steps: Vec<(Option<Value>, usize)> = Vec::new();
        let mut from = 0;
        while self.left > 0 {
            if let Some(next) = self.step(from) {
                steps.push((self.value, next));
                self.take(next);
                from = 0;
                continue;
            }
            let Some((value, step)) = steps.pop() else { return Err(self.refused()) };
            self.take_back(step, value);
            from = step + 1;
        }
        Ok(())
    }

    /// The first operation from `from` on that may come next and leads to where the search hasn't been.
    fn step(&mut self, from: usize) -> Option<usize> {
        let limit = self.first_answer();
        for next in from..self.operations.len() {
            let operation = self.operations[next];
            if operation.invoked > limit {
                return None;
            }
            if self.is_taken(next) {
                continue;
            }
            let Some(value) = applied(&operation, self.value) else { continue };
            self.taken[next / 64] ^= 1 << (next % 64);
            let is_new = self.tried.insert((self.taken.clone(), value));
            self.taken[next / 64] ^= 1 << (next % 64);
            if is_new {
                return Some(next);
            }
        }
        None
    }

    /// What is invoked later can't come before the one that is answered first.
    fn first_answer(&self) -> u64 {
        let open = (0..self.operations.len()).filter(|at| !self.is_taken(*at));
        open.filter_map(|at| self.operations[at].answer).map(|(at, _)| at).min().unwrap_or(u64::MAX)
    }

    fn take(&mut self, next: usize) {
        self.taken[next / 64] |= 1 << (next % 64);
        self.value = applied(&self.operations[next], self.value).unwrap_or(self.value);
        self.left -= usize::from(self.operations[next].answer.is_some());
        self.order.push(next);
        if self.order.len() > self.longest.0.len() {
            self.longest = (self.order.clone(), self.value);
        }
    }

    fn take_back(&mut self, step: usize, value: Option<Value>) {
        self.taken[step / 64] &= !(1 << (step % 64));
        self.value = value;
        self.left += usize::from(self.operations[step].answer.is_some());
        self.order.pop();
    }

    fn is_taken(&self, at: usize) -> bool {
        self.taken[at / 64] & (1 << (at % 64)) != 0
    }

    fn refused(mut self) -> Refused {
        let (order, value) = std::mem::take(&mut self.longest);
        self.taken.fill(0);
        order.iter().for_each(|at| self.taken[at / 64] |= 1 << (at % 64));
        let limit = self.first_answer();
        let stuck =
            (0..self.operations.len()).filter(|at| !self.is_taken(*at) && self.operations[*at].invoked <= limit);
        Refused {
            stuck: stuck.map(|at| self.operations[at]).collect(),
            order: order.into_iter().map(|at| self.operations[at]).collect(),
            value,
        }
    }
}

/// The register after an operation; none: it can't have been answered so.
fn applied(operation: &Operation, value: Option<Value>) -> Option<Option<Value>> {
    let answer = operation.answer.map(|(_, answer)| answer);
    match (operation.action, answer) {
        (Action::Read, None) => Some(value),
        (Action::Read, Some(Answer::Value(seen))) => (seen == value).then_some(value),
        (Action::Write(new), None | Some(Answer::Done)) => Some(Some(new)),
        (Action::Swap(expected, new), None) => Some(if expected == value { Some(new) } else { value }),
        (Action::Swap(expected, new), Some(Answer::Done)) => (expected == value).then_some(Some(new)),
        (Action::Swap(expected, _), Some(Answer::Stale)) => (expected != value).then_some(value),
        (action, answer) => panic!("{action:?} can't be answered {answer:?}"),
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let last = self.order.len().saturating_sub(12);
        writeln!(formatter, "the longest order has {} operations, the last of them:", self.order.len())?;
        for operation in &self.order[last..] {
            writeln!(formatter, "    {operation}")?;
        }
        writeln!(formatter, "then the register is {:?}, and none of these can be next:", self.value)?;
        for operation in &self.stuck {
            writeln!(formatter, "    {operation}")?;
        }
        Ok(())
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { client, action, invoked, .. } = self;
        let millis = |nanos: u64| nanos as f64 / 1e6;
        write!(formatter, "client {client}, {:.3} ms: {action:?}", millis(*invoked))?;
        match self.answer {
            Some((at, answer)) => write!(formatter, " = {answer:?} at {:.3} ms", millis(at)),
            None => write!(formatter, ", without an answer"),
        }
    }
}
