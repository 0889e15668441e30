//! Closed-loop load: so many requests in flight over so many connections, each answered request followed by the next.
//!
//! The load has a thread and a single-threaded runtime of its own, because it shares the machine with the server that
//! it measures: one thread that never waits for another costs least. It never starts or stops a server.

pub(crate) mod grpc;
pub(crate) mod redis;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;

use crate::interrupt;
use crate::statistics::percentile;

/// Requests for one slot; none: there is nothing more to do.
pub(crate) type Requests = Box<dyn FnMut() -> Option<Bytes> + Send>;

/// What a load sends.
pub(crate) struct Work {
    /// How it is sent and read.
    pub(crate) protocol: Protocol,
    /// Makes the requests of the slot with this number.
    pub(crate) requests: Box<dyn Fn(usize) -> Requests + Send>,
}

/// How requests travel.
pub(crate) enum Protocol {
    /// Unary calls of one method; every answer's message is given to the function.
    Grpc { method: &'static str, answered: Option<Arc<dyn Fn(Bytes) + Send + Sync>> },
    /// Redis commands, pipelined.
    Redis,
}

/// Where a load goes, and how wide and long it is.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) address: SocketAddr,
    pub(crate) in_flight: usize,
    pub(crate) connections: usize,
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

impl Plan {
    /// How many of the requests in flight a connection carries.
    fn slots_of(&self, connection: usize) -> usize {
        self.in_flight / self.connections + usize::from(connection < self.in_flight % self.connections)
    }
}

/// Connections for so many requests in flight: one for up to 8, else 8, because an HTTP/2 connection is one lock on both
/// sides.
pub(crate) fn shared_connections(in_flight: usize) -> usize {
    if in_flight <= 8 { 1 } else { 8 }
}

/// The time in which answers count.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    start: Instant,
    end: Instant,
}

impl Window {
    fn covers(&self, moment: Instant) -> bool {
        self.start <= moment && moment < self.end
    }

    fn is_over(&self, moment: Instant) -> bool {
        moment >= self.end || interrupt::check().is_err()
    }
}

/// The answers of one slot or connection, or of all.
#[derive(Default)]
struct Answers {
    /// Of those in the window.
    latencies: Vec<Duration>,
    /// Before, in and after the window.
    all: u64,
}

impl Answers {
    fn note(&mut self, window: Window, begun: Instant, done: Instant) {
        self.all += 1;
        if window.covers(done) {
            self.latencies.push(done - begun);
        }
    }

    fn merge(&mut self, mut other: Self) {
        self.all += other.all;
        self.latencies.append(&mut other.latencies);
    }
}

/// What a load measured.
pub(crate) struct Measured {
    /// Answers altogether, before and after the window too.
    pub(crate) all: u64,
    /// From request to answer, in nanoseconds, sorted.
    latencies: Vec<u64>,
    seconds: f64,
}

impl Measured {
    /// Of answers that all lie in the window.
    pub(crate) fn new(latencies: impl IntoIterator<Item = Duration>, seconds: f64) -> Self {
        let latencies: Vec<Duration> = latencies.into_iter().collect();
        let all = latencies.len() as u64;
        Self::of(Answers { latencies, all }, seconds)
    }

    fn of(answers: Answers, seconds: f64) -> Self {
        let nanoseconds = answers.latencies.iter().map(|time| time.as_nanos() as u64);
        let mut latencies: Vec<u64> = nanoseconds.collect();
        latencies.sort_unstable();
        Self { all: answers.all, latencies, seconds }
    }

    /// Answers in the window.
    pub(crate) fn count(&self) -> u64 {
        self.latencies.len() as u64
    }

    /// Answers per second.
    pub(crate) fn rate(&self) -> f64 {
        self.count() as f64 / self.seconds
    }

    /// The latency that this fraction of the answers didn't exceed, in microseconds.
    pub(crate) fn microseconds(&self, fraction: f64) -> Option<f64> {
        percentile(&self.latencies, fraction).map(|nanoseconds| nanoseconds as f64 / 1000.0)
    }
}

/// Loads the server as planned, and calls `sample` at the start and at the end of the measured time.
pub(crate) fn measure<S>(plan: Plan, work: Work, sample: impl Fn() -> Result<S>) -> Result<(Measured, S, S)> {
    let (ready, started) = mpsc::channel();
    let load = thread::spawn(move || drive(plan, work, &ready));
    let both = |window: Window| -> Result<(S, S)> {
        interrupt::sleep_until(window.start)?;
        let first = sample()?;
        interrupt::sleep_until(window.end)?;
        Ok((first, sample()?))
    };
    let samples = started.recv().ok().map(both);
    let measured = load.join().map_err(|_| anyhow!("the load's thread panicked"))??;
    let (first, last) = samples.context("the load ended before it began")??;
    interrupt::check()?;
    if measured.count() == 0 {
        bail!("no answer within {:?}", plan.measured);
    }
    Ok((measured, first, last))
}

/// Sends until there is nothing more to send, at the longest for `limit`; says how long that took.
pub(crate) fn exhaust(address: SocketAddr, in_flight: usize, limit: Duration, work: Work) -> Result<Measured> {
    let connections = shared_connections(in_flight);
    let plan = Plan { address, in_flight, connections, warm_up: Duration::ZERO, measured: limit };
    let (ready, _started) = mpsc::channel();
    let load = thread::spawn(move || {
        let begun = Instant::now();
        drive(plan, work, &ready).map(|measured| Measured { seconds: begun.elapsed().as_secs_f64(), ..measured })
    });
    let measured = load.join().map_err(|_| anyhow!("the load's thread panicked"))??;
    interrupt::check()?;
    if measured.seconds >= limit.as_secs_f64() {
        bail!("not done within {limit:?}: {} answers", measured.count());
    }
    Ok(measured)
}

fn drive(plan: Plan, work: Work, ready: &mpsc::Sender<Window>) -> Result<Measured> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let bound = plan.warm_up + plan.measured + Duration::from_secs(60);
    let answers = runtime.block_on(async {
        let run = async {
            match &work.protocol {
                Protocol::Grpc { method, answered } => {
                    grpc::drive(plan, method, answered.as_ref(), &work.requests, ready).await
                }
                Protocol::Redis => redis::drive(plan, &work.requests, ready).await,
            }
        };
        tokio::time::timeout(bound, run).await.with_context(|| format!("an answer is missing after {bound:?}"))?
    })?;
    Ok(Measured::of(answers, plan.measured.as_secs_f64()))
}

/// Opens the window and tells the one who samples.
fn open_window(plan: Plan, ready: &mpsc::Sender<Window>) -> Window {
    let start = Instant::now() + plan.warm_up;
    let window = Window { start, end: start + plan.measured };
    // Nobody listens when nothing is sampled.
    let _ = ready.send(window);
    window
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(in_flight: usize) -> Plan {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let connections = shared_connections(in_flight);
        Plan { address, in_flight, connections, warm_up: Duration::ZERO, measured: Duration::from_secs(1) }
    }

    #[test]
    fn connections_share_all_slots_between_them() {
        for in_flight in [1, 7, 8, 9, 64, 100, 1024] {
            let plan = plan(in_flight);
            let slots: usize = (0..plan.connections).map(|connection| plan.slots_of(connection)).sum();
            assert_eq!(slots, in_flight);
        }
    }

    #[test]
    fn a_rate_counts_answers_per_second_of_the_window() {
        let measured = Measured::new([3, 1, 2, 4].map(Duration::from_micros), 2.0);
        assert_eq!(measured.rate(), 2.0);
        assert_eq!(measured.microseconds(0.5), Some(2.0));
    }
}
