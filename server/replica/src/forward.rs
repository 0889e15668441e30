//! Transactions on their way to the leader of another server.
//!
//! One that comes alone goes at once; those that come while others are on their way go together when
//! these are answered, or when there are enough for a message of their own. Nothing is forwarded
//! twice by itself: who waits decides whether to try again.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use flotilla_proto::peer::v1 as peer;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    Committed, Metrics, ProposeError,
    cell::Cell,
    leadership::{Leader, Leadership},
    peer::{Answer, Call, PeerError},
    translate,
};

/// Operations of one message, unless one transaction alone has more: as many as an entry takes.
const MESSAGE_OPERATIONS: usize = 128;
/// Bytes of one message, unless one transaction alone has more.
const MESSAGE_BYTES: usize = 1024 * 1024;
/// Messages that may be on their way.
const UNDER_WAY: usize = 8;
/// Bytes that may wait, unless one transaction alone has more.
const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;

/// What became of a forwarded transaction.
pub(crate) type Forwarded = Result<Committed, ProposeError>;

/// Sends transactions to the leader.
pub(crate) struct Forwarder {
    cell: Arc<Cell>,
    leadership: Arc<Leadership>,
    metrics: Metrics,
    max_waiting: usize,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    operations: usize,
    bytes: usize,
    under_way: usize,
}

/// What is forwarded.
pub(crate) enum Forwarding {
    /// An encoded transaction of so many operations.
    Transaction(Bytes, usize),
    /// A check with this id.
    Check(String),
}

struct Waiting {
    leader: Arc<Leader>,
    what: Forwarding,
    deadline: Instant,
    answer: oneshot::Sender<Forwarded>,
}

impl Forwarder {
    pub(crate) fn new(cell: Arc<Cell>, leadership: Arc<Leadership>, metrics: Metrics, max_waiting: usize) -> Arc<Self> {
        Arc::new(Self { cell, leadership, metrics, max_waiting, queue: Mutex::default() })
    }

    /// Puts a transaction into the queue to a leader, and sees to it that it goes.
    pub(crate) fn submit(
        self: &Arc<Self>,
        leader: Arc<Leader>,
        what: Forwarding,
        deadline: Instant,
    ) -> Result<oneshot::Receiver<Forwarded>, ProposeError> {
        let (answer, answered) = oneshot::channel();
        {
            let mut queue = self.queue();
            let too_large = !queue.waiting.is_empty() && queue.bytes + what.bytes() > MAX_WAITING_BYTES;
            if queue.waiting.len() >= self.max_waiting || too_large {
                return Err(ProposeError::Overloaded { waiting: queue.waiting.len() });
            }
            queue.operations += what.operations();
            queue.bytes += what.bytes();
            queue.waiting.push_back(Waiting { leader, what, deadline, answer });
        }
        self.pump();
        Ok(answered)
    }

    fn pump(self: &Arc<Self>) {
        while let Some(message) = self.next_message() {
            let forwarder = self.clone();
            tokio::spawn(async move {
                forwarder.send(message).await;
                forwarder.queue().under_way -= 1;
                forwarder.pump();
            });
        }
    }

    fn next_message(&self) -> Option<Vec<Waiting>> {
        let mut queue = self.queue();
        let full = queue.operations >= MESSAGE_OPERATIONS || queue.bytes >= MESSAGE_BYTES;
        if queue.waiting.is_empty() || queue.under_way >= UNDER_WAY || (queue.under_way > 0 && !full) {
            return None;
        }
        let now = Instant::now();
        let (mut message, mut operations, mut bytes): (Vec<Waiting>, _, _) = (Vec::new(), 0, 0);
        while let Some(next) = queue.waiting.front() {
            let (next_operations, next_bytes) = (next.what.operations(), next.what.bytes());
            let fits = operations + next_operations <= MESSAGE_OPERATIONS && bytes + next_bytes <= MESSAGE_BYTES;
            let same = message.first().is_none_or(|first| first.leader == next.leader);
            let goes_along = message.is_empty() || (fits && same);
            if !goes_along {
                break;
            }
            let Some(next) = queue.waiting.pop_front() else { break };
            queue.operations -= next_operations;
            queue.bytes -= next_bytes;
            // Who no longer waits for it must not find it done.
            if next.deadline <= now || next.answer.is_closed() {
                let _ = next.answer.send(Err(ProposeError::DeadlineExpired { submitted: false }));
                continue;
            }
            operations += next_operations;
            bytes += next_bytes;
            message.push(next);
        }
        if message.is_empty() {
            return None;
        }
        queue.under_way += 1;
        Some(message)
    }

    async fn send(&self, mut message: Vec<Waiting>) {
        let Some(first) = message.first() else { return };
        let leader = first.leader.clone();
        let now = Instant::now();
        let micros = |left: Duration| u64::try_from(left.as_micros()).unwrap_or(u64::MAX);
        let transactions = message.iter_mut().map(|waiting| {
            let timeout_micros = micros(waiting.deadline.saturating_duration_since(now));
            match &mut waiting.what {
                Forwarding::Transaction(transaction, _) => peer::ProposedTransaction {
                    transaction: std::mem::take(transaction),
                    timeout_micros,
                    check_id: String::new(),
                },
                Forwarding::Check(id) => peer::ProposedTransaction {
                    transaction: Bytes::new(),
                    timeout_micros,
                    check_id: std::mem::take(id),
                },
            }
        });
        let request = peer::ProposeRequest { transactions: transactions.collect() };
        self.metrics.forwarded.inc_by(message.len() as u64);
        let until = message.iter().map(|waiting| waiting.deadline).max().unwrap_or(now);
        let introduction = self.cell.introduction(Some(leader.id));
        let addresses = self.cell.addresses(leader.id.server, &leader.server);
        let call = self.cell.network.call(&addresses, introduction, Call::Propose(request), until - now);
        let answer = tokio::select! {
            answer = call => answer,
            // A leader that is gone may take long to be noticed by its connection.
            () = self.leadership.wait_for_change(Some(&leader), until) => {
                Err(PeerError::Broken("another server leads meanwhile".into()))
            }
        };
        let outcomes = match answer {
            Ok(Answer::Propose(response)) if response.outcomes.len() == message.len() => response.outcomes,
            Err(PeerError::Unreachable(_) | PeerError::Refused { .. }) => {
                return answer_all(message, &ProposeError::NoLeader);
            }
            _ => return answer_all(message, &ProposeError::LeaderLost),
        };
        for (waiting, outcome) in message.into_iter().zip(outcomes) {
            // Who asked may have gone; the transaction stays.
            let _ = waiting.answer.send(translate::proposed_from_peer(outcome));
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Forwarding {
    fn operations(&self) -> usize {
        match self {
            Self::Transaction(_, operations) => *operations,
            Self::Check(_) => 1,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Transaction(transaction, _) => transaction.len(),
            Self::Check(id) => id.len(),
        }
    }
}

fn answer_all(message: Vec<Waiting>, error: &ProposeError) {
    for waiting in message {
        // Who asked may have gone.
        let _ = waiting.answer.send(Err(error.clone()));
    }
}
