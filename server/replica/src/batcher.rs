//! Transactions that wait together become one log entry.
//!
//! A transaction that comes alone goes at once. Those that come while an entry
//! is on its way to the disk wait for it, and go together: an entry that isn't
//! full is sent only when nothing else is being flushed. On a slow disk one
//! thing more: the writers that were just answered are given a moment to come
//! back, so that all of them share the next flush instead of every other one.
//! What waits is bounded, and so is what is under way.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flotilla_proto::storage::v1::{self as storage, command};
use futures::FutureExt;
use openraft::{errors::ClientWriteError, raft::ClientWriteResult};
use prost::Message;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    Committed, Metrics, ProposeError,
    clock::Clock,
    log::Log,
    raft::{Command, Raft, Reply, TypeConfig, Waiter},
    trace::{Trace, Traced},
    traced,
};

/// Operations of one entry, unless one transaction alone has more. The state
/// machine writes an entry's rows as one batch, and sled's memory grows with
/// its batches; several entries share an fsync all the same.
const ENTRY_OPERATIONS: usize = 128;
/// Bytes of one entry, unless one transaction alone has more.
const ENTRY_BYTES: usize = 1024 * 1024;
/// Bytes that may wait, unless one transaction alone has more.
const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;
/// Entries that may be sent and not answered.
const MAX_UNDER_WAY: usize = 16;
/// A flush that takes this long is worth a moment's wait for more company.
const SLOW_FLUSH: Duration = Duration::from_millis(2);
/// That moment, at most.
const GATHER: Duration = Duration::from_millis(1);

/// What became of each transaction of an entry, in order.
pub(crate) type Outcomes = Vec<Outcome>;

/// What became of one transaction.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// It happened, now or when it was first sent.
    Committed(Committed),
    /// A condition did not hold.
    Conflict { condition: usize },
    /// Its request id stands for another request.
    RequestIdReused,
}

/// Collects transactions into entries.
pub(crate) struct Batcher {
    raft: Raft,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    log: Arc<Log>,
    max_waiting: usize,
    /// The format of entries that every voter reads.
    format: Arc<AtomicU32>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    operations: usize,
    bytes: usize,
    /// Entries sent and not answered.
    under_way: usize,
    /// Entries sent and not durable.
    unflushed: usize,
    /// While writers are given a moment to come back: how many are expected.
    gathering: Option<usize>,
    /// Counts such moments, so that the end of one doesn't end a later one.
    gatherings: u64,
}

struct Waiting {
    encoded: Bytes,
    operations: usize,
    deadline: Instant,
    answer: Answer,
    /// Boxed, because few are traced.
    stage: Option<Box<Stage>>,
}

/// Where a traced transaction is: its span ends with this.
struct Stage {
    transaction: Trace,
    _span: Traced,
}

impl Stage {
    /// The one after it, which begins when this has ended.
    fn next(self, begin: impl FnOnce(Trace) -> Traced) -> Self {
        let transaction = self.transaction;
        drop(self);
        Self { transaction, _span: begin(transaction) }
    }
}

type Answer = oneshot::Sender<Result<Committed, ProposeError>>;

/// An entry that is under way. If Raft drops it without an answer, it has
/// stopped: nobody may wait any longer then.
struct UnderWay {
    batcher: Arc<Batcher>,
    answers: Vec<Answer>,
    /// Of the transactions that are traced.
    stages: Vec<Stage>,
    committed: bool,
    /// The moment that its writers are given to come back.
    gathering: Option<u64>,
    answered: bool,
}

impl Batcher {
    pub(crate) fn new(
        raft: Raft,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
        log: Arc<Log>,
        max_waiting: usize,
        format: Arc<AtomicU32>,
    ) -> Arc<Self> {
        Arc::new(Self { raft, clock, metrics, log, max_waiting, format, queue: Mutex::default() })
    }

    /// Puts an encoded transaction of so many operations into the queue, and sees to it that it goes.
    pub(crate) fn submit(
        self: &Arc<Self>,
        encoded: Bytes,
        operations: usize,
        deadline: Instant,
        trace: Option<Trace>,
    ) -> Result<oneshot::Receiver<Result<Committed, ProposeError>>, ProposeError> {
        let (answer, answered) = oneshot::channel();
        let operations = operations.max(1);
        let stage = trace.map(|transaction| Box::new(Stage { transaction, _span: traced!(transaction, "queue") }));
        {
            let mut queue = self.queue();
            let too_large = !queue.waiting.is_empty() && queue.bytes + encoded.len() > MAX_WAITING_BYTES;
            if queue.waiting.len() >= self.max_waiting || too_large {
                return Err(ProposeError::Overloaded { waiting: queue.waiting.len() });
            }
            queue.operations += operations;
            queue.bytes += encoded.len();
            queue.waiting.push_back(Waiting { encoded, operations, deadline, answer, stage });
            self.metrics.waiting.set(queue.waiting.len() as i64);
        }
        self.pump();
        Ok(answered)
    }

    /// Sends entries for as long as there is something to send and room for it.
    fn pump(self: &Arc<Self>) {
        while let Some((command, answers, stages)) = self.next_entry() {
            let batcher = self.clone();
            let under_way = UnderWay { batcher, answers, stages, committed: false, gathering: None, answered: false };
            let reply = Reply(Box::new(under_way));
            let raft = self.raft.clone();
            // An error means that Raft has stopped, and has dropped the reply.
            let mut sending = Box::pin(async move { drop(raft.client_write_ff(command, Some(reply)).await) });
            // There is room almost always. Where there is none, a task waits:
            // who asked may go at any time, and others are in the entry, too.
            if (&mut sending).now_or_never().is_none() {
                let batcher = self.clone();
                tokio::spawn(async move {
                    sending.await;
                    batcher.pump();
                });
                return;
            }
        }
    }

    fn next_entry(&self) -> Option<(Command, Vec<Answer>, Vec<Stage>)> {
        let mut queue = self.queue();
        let full = queue.operations >= ENTRY_OPERATIONS || queue.bytes >= ENTRY_BYTES;
        let gathering = queue.gathering.is_some_and(|expected| queue.waiting.len() < expected);
        let must_wait = !full && (queue.unflushed > 0 || gathering);
        if must_wait || queue.under_way >= MAX_UNDER_WAY {
            return None;
        }
        queue.gathering = None;
        let now = Instant::now();
        let (mut transactions, mut answers) = (Vec::new(), Vec::new());
        let (mut operations, mut bytes) = (0, 0);
        let mut traces = Vec::new();
        while let Some(next) = queue.waiting.front() {
            let (next_operations, next_bytes) = (next.operations, next.encoded.len());
            let fits = operations + next_operations <= ENTRY_OPERATIONS && bytes + next_bytes <= ENTRY_BYTES;
            if !fits && !transactions.is_empty() {
                break;
            }
            let Some(next) = queue.waiting.pop_front() else { break };
            queue.operations -= next_operations;
            queue.bytes -= next_bytes;
            // Who no longer waits for it must not find it done.
            if next.deadline <= now || next.answer.is_closed() {
                // The receiver may be gone, which is what this is about.
                let _ = next.answer.send(Err(ProposeError::DeadlineExpired { submitted: false }));
                continue;
            }
            operations += next_operations;
            bytes += next_bytes;
            transactions.push(next.encoded);
            answers.push(next.answer);
            traces.extend(next.stage.map(|stage| stage.transaction));
        }
        self.metrics.waiting.set(queue.waiting.len() as i64);
        if transactions.is_empty() {
            return None;
        }
        queue.under_way += 1;
        queue.unflushed += 1;
        drop(queue);
        self.metrics.group_transactions.observe(transactions.len() as f64);
        let count = transactions.len();
        let fsync = |transaction| Stage { transaction, _span: traced!(transaction, "fsync", transactions = count) };
        let stages = traces.into_iter().map(fsync).collect();
        let kind = command::Kind::Batch(storage::Batch { transactions });
        Some((self.encode(kind), answers, stages))
    }

    /// A command as it goes into the log.
    pub(crate) fn encode(&self, kind: command::Kind) -> Command {
        let (time, format) = (self.clock.now(), self.format.load(Ordering::Acquire));
        // The first format was written without its number.
        let format = if format == 1 { 0 } else { format };
        Command(storage::Command { time, kind: Some(kind), format }.encode_to_vec().into())
    }

    fn tell(&self, outcome: Outcome) -> Result<Committed, ProposeError> {
        match outcome {
            Outcome::Committed(committed) => {
                let counter = if committed.replayed { &self.metrics.replays } else { &self.metrics.committed };
                counter.inc();
                Ok(committed)
            }
            Outcome::Conflict { condition } => {
                self.metrics.conflicts.inc();
                Err(ProposeError::Conflict { condition })
            }
            Outcome::RequestIdReused => Err(ProposeError::RequestIdReused),
        }
    }

    fn end_gathering(&self, gathering: u64) {
        let mut queue = self.queue();
        if queue.gatherings == gathering {
            queue.gathering = None;
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type WriteResult = ClientWriteResult<TypeConfig>;

impl Waiter<WriteResult> for UnderWay {
    fn committed(&mut self) {
        self.note_committed();
        let (batcher, writers) = (self.batcher.clone(), self.answers.len());
        {
            let mut queue = batcher.queue();
            if writers > 1 && queue.unflushed == 0 && batcher.log.last_sync() >= SLOW_FLUSH {
                queue.gathering = Some(writers + queue.waiting.len());
                queue.gatherings += 1;
                self.gathering = Some(queue.gatherings);
            }
        }
        batcher.pump();
    }

    fn complete(mut self: Box<Self>, result: WriteResult) {
        self.note_committed();
        self.stages.clear();
        self.answered = true;
        self.batcher.queue().under_way -= 1;
        let answers = std::mem::take(&mut self.answers);
        match result {
            Ok(response) => {
                for (answer, outcome) in answers.into_iter().zip(response.data) {
                    // Who asked may have gone; the transaction stays.
                    let _ = answer.send(self.batcher.tell(outcome));
                }
            }
            Err(error) => {
                let error = match error {
                    // It never entered the log.
                    ClientWriteError::ForwardToLeader(_) => ProposeError::NoLeader,
                    _ => ProposeError::LeaderLost,
                };
                for answer in answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
        if let Some(gathering) = self.gathering {
            let batcher = self.batcher.clone();
            tokio::spawn(async move {
                tokio::time::sleep(GATHER).await;
                batcher.end_gathering(gathering);
                batcher.pump();
            });
        }
        self.batcher.pump();
    }
}

impl UnderWay {
    fn note_committed(&mut self) {
        if !std::mem::replace(&mut self.committed, true) {
            self.batcher.queue().unflushed -= 1;
            let stages = std::mem::take(&mut self.stages).into_iter();
            self.stages = stages.map(|stage| stage.next(|transaction| traced!(transaction, "apply"))).collect();
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        self.note_committed();
        self.batcher.metrics.waiting.set(0);
        let waiting = {
            let mut queue = self.batcher.queue();
            queue.under_way -= 1;
            (queue.operations, queue.bytes) = (0, 0);
            std::mem::take(&mut queue.waiting)
        };
        // Their receivers learn from it that Raft has stopped.
        drop(waiting);
    }
}
