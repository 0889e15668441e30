//! The checker can fail: histories that it must refuse, some that it must accept, and `stateright` as its judge.

use rand::{Rng, SeedableRng, rngs::StdRng};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use crate::linearizability::{Action, Answer, Operation, Value, check};

const HISTORIES: u64 = 20_000;

/// client, action, invoked, answer and its time.
type Line = (usize, Action, u64, Option<(u64, Answer)>);

use Action::{Read, Swap, Write};
use Answer::{Done, Stale};

fn seen(value: Value) -> Answer {
    Answer::Value(Some(value))
}

fn history(lines: &[Line]) -> Vec<Operation> {
    let operation = |&(client, action, invoked, answer): &Line| Operation { client, action, invoked, answer };
    lines.iter().map(operation).collect()
}

fn refused(what: &str, lines: &[Line]) {
    assert!(check(&history(lines)).is_err(), "{what} is accepted");
}

fn accepted(what: &str, lines: &[Line]) {
    if let Err(refused) = check(&history(lines)) {
        panic!("{what} is refused: {refused}");
    }
}

pub(crate) fn a_stale_read_is_refused() {
    refused(
        "a read that begins after the second write was answered and sees the first",
        &[(1, Write(1), 0, Some((10, Done))), (1, Write(2), 20, Some((30, Done))), (2, Read, 40, Some((50, seen(1))))],
    );
    refused(
        "a read that sees what was there before another read",
        &[
            (1, Write(1), 0, Some((10, Done))),
            (1, Write(2), 20, Some((90, Done))),
            (2, Read, 30, Some((40, seen(2)))),
            (3, Read, 50, Some((60, seen(1)))),
        ],
    );
}

pub(crate) fn a_lost_update_is_refused() {
    refused(
        "two swaps over the same value",
        &[
            (1, Write(1), 0, Some((10, Done))),
            (2, Swap(Some(1), 2), 20, Some((40, Done))),
            (3, Swap(Some(1), 3), 20, Some((40, Done))),
        ],
    );
    refused(
        "an acknowledged write that nobody sees",
        &[(1, Write(1), 0, Some((10, Done))), (2, Read, 20, Some((30, Answer::Value(None))))],
    );
}

pub(crate) fn a_retry_that_is_applied_twice_is_refused() {
    refused(
        "a write that comes back after another one",
        &[
            (1, Write(1), 0, Some((30, Done))),
            (2, Read, 10, Some((12, seen(1)))),
            (2, Write(2), 14, Some((16, Done))),
            (2, Read, 40, Some((45, seen(1)))),
        ],
    );
}

pub(crate) fn what_had_no_answer_may_have_happened_late_or_never() {
    accepted(
        "a write without an answer, seen much later",
        &[
            (1, Write(1), 0, None),
            (2, Read, 10, Some((20, Answer::Value(None)))),
            (2, Write(2), 30, Some((40, Done))),
            (2, Read, 50, Some((60, seen(1)))),
        ],
    );
    accepted(
        "a write without an answer, never seen",
        &[(1, Write(1), 0, None), (2, Swap(None, 2), 5, Some((9, Done)))],
    );
    refused(
        "a write without an answer, seen and gone again",
        &[
            (1, Write(1), 0, None),
            (2, Write(2), 0, Some((5, Done))),
            (2, Read, 10, Some((20, seen(1)))),
            (2, Read, 30, Some((40, seen(2)))),
        ],
    );
}

pub(crate) fn long_histories_are_checked_at_once() {
    let mut random = StdRng::seed_from_u64(1);
    let good = simulated(&mut random, 5, 1_000, 0.0);
    let mut bad = good.clone();
    bad.push(Operation { client: 9, action: Read, invoked: 1 << 40, answer: Some((1 << 41, seen(1 << 50))) });
    let begun = std::time::Instant::now();
    assert!(check(&good).is_ok() && check(&bad).is_err());
    assert!(begun.elapsed().as_secs() < 20, "checking took {:?}", begun.elapsed());
}

pub(crate) fn stateright_says_the_same_of_random_histories() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..HISTORIES {
        let mut random = StdRng::seed_from_u64(seed);
        let history = simulated(&mut random, 3, 9, 0.08);
        let expected = judge(&history);
        assert_eq!(check(&history).is_ok(), expected, "of the history of seed {seed}: {history:#?}");
        *(if expected { &mut good } else { &mut bad }) += 1;
    }
    assert!(good > 1_000 && bad > 1_000, "too few of one kind to tell: {good} and {bad}");
}

/// Clients of a real register, of whose answers some are altered with this probability and some are lost.
fn simulated(random: &mut StdRng, clients: usize, count: usize, altered: f64) -> Vec<Operation> {
    let (mut value, mut written) = (None, 0);
    let mut free = vec![0_u64; clients];
    let mut operations: Vec<(u64, Operation)> = Vec::new();
    for _ in 0..count {
        let client = random.random_range(0..clients);
        let invoked = free[client] + random.random_range(1..4);
        let answered = invoked + random.random_range(1..12);
        free[client] =
            if random.random_bool(0.08 * f64::from(u8::from(altered > 0.0))) { u64::MAX / 2 } else { answered };
        let action = match random.random_range(0..3) {
            0 => Read,
            1 => Write(0),
            _ => Swap(None, 0),
        };
        let answer = (free[client] == answered).then_some((answered, Done));
        let moment = random.random_range(invoked..=answered);
        operations.push((moment, Operation { client, action, invoked, answer }));
    }
    operations.retain(|(_, operation)| operation.invoked < u64::MAX / 2);
    operations.sort_by_key(|(moment, _)| *moment);
    let mut history = Vec::new();
    for (_, mut operation) in operations {
        written += 1;
        let expected = if random.random_bool(0.7) { value } else { Some(written / 2) };
        operation.action = match operation.action {
            Read => Read,
            Write(_) => Write(written),
            Swap(..) => Swap(expected, written),
        };
        let happens = operation.answer.is_some() || random.random_bool(0.5);
        let mut answer = match operation.action {
            Read => Answer::Value(value),
            Swap(expected, _) if expected != value => Stale,
            _ => Done,
        };
        if happens && answer == Done {
            value = Some(written);
        }
        if random.random_bool(altered) {
            answer = match operation.action {
                Read => Answer::Value(Some(random.random_range(1..=written))),
                Write(_) => Done,
                Swap(..) => [Done, Stale][random.random_range(0..2)],
            };
        }
        operation.answer = operation.answer.map(|(at, _)| (at, answer));
        history.push(operation);
    }
    history
}

/// The register as `stateright` wants it told.
#[derive(Clone)]
struct Register(Option<Value>);

impl SequentialSpec for Register {
    type Op = Action;
    type Ret = Answer;

    fn invoke(&mut self, action: &Action) -> Answer {
        match *action {
            Read => Answer::Value(self.0),
            Swap(expected, _) if expected != self.0 => Stale,
            Write(new) | Swap(_, new) => {
                self.0 = Some(new);
                Done
            }
        }
    }
}

fn judge(history: &[Operation]) -> bool {
    let mut events: Vec<(u64, u8, &Operation)> = Vec::new();
    for operation in history {
        events.push((operation.invoked, 0, operation));
        events.extend(operation.answer.map(|(at, _)| (at, 1, operation)));
    }
    // At the same time an invocation comes first: the two overlap.
    events.sort_by_key(|(at, kind, _)| (*at, *kind));
    let mut tester = LinearizabilityTester::new(Register(None));
    for (_, kind, operation) in events {
        let told = match operation.answer {
            Some((_, answer)) if kind == 1 => tester.on_return(operation.client, answer),
            _ => tester.on_invoke(operation.client, operation.action),
        };
        told.expect("a well-formed history");
    }
    tester.is_consistent()
}
