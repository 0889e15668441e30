//! Counts refused callers, and tells of them now and then with what to do about it.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use flotilla_replica::peer::{Introduction, Refusal};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use crate::refusals::{KINDS, Refused, name};

/// How often the same is told of the same address.
const TELL: Duration = Duration::from_secs(60);
/// Addresses and kinds that are remembered; beyond them it is only counted.
const MAX_TOLD: usize = 256;

/// What is counted of peers. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    refused: Family<Reason, Counter>,
}

/// Why somebody was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let refused = Family::<Reason, Counter>::default();
        for kind in KINDS {
            // From zero, so that the first one is seen to be one more.
            drop(refused.get_or_create(&Reason { reason: name(kind) }));
        }
        Self { refused }
    }
}

impl Metrics {
    /// Names every counter in a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("flotilla_peer_refused", "Calls of other servers that were refused", self.refused.clone());
    }
}

/// Who was refused.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    metrics: Metrics,
    told: Mutex<HashMap<(Refusal, Option<IpAddr>), Instant>>,
}

impl Tally {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { metrics, told: Mutex::default() }
    }

    /// Counts a refusal, and tells of it if it is time.
    pub(crate) fn refuse(&self, refused: &Refused, remote: Option<IpAddr>, caller: Option<&Introduction>) {
        let reason = name(refused.refusal);
        self.metrics.refused.get_or_create(&Reason { reason }).inc();
        // A server that starts or stops is as it should be.
        if refused.refusal == Refusal::NotServing || !self.is_due(refused.refusal, remote) {
            return;
        }
        let remote = remote.map_or_else(|| "unknown".to_owned(), |remote| remote.to_string());
        tracing::warn!(
            reason,
            remote,
            server = caller.map(|caller| tracing::field::display(caller.from)),
            cell = caller.map(|caller| tracing::field::debug(&caller.cell)),
            why = ?refused.message,
            advice = advice(refused.refusal),
            "refused a call of another server"
        );
    }

    fn is_due(&self, refusal: Refusal, remote: Option<IpAddr>) -> bool {
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= MAX_TOLD {
            told.retain(|_, last| now.duration_since(*last) < TELL);
        }
        let full = told.len() >= MAX_TOLD;
        match told.get_mut(&(refusal, remote)) {
            Some(last) if now.duration_since(*last) < TELL => false,
            Some(last) => {
                *last = now;
                true
            }
            None if full => false,
            None => {
                told.insert((refusal, remote), now);
                true
            }
        }
    }
}

/// What a person does about it.
fn advice(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Cell => "a server of another cell has this address among its peers: correct `cluster.peers` there",
        Refusal::History => {
            "the server there has the data of another history, by a restore or a formation of its own: \
             empty its data directory if this cell is the right one"
        }
        Refusal::Recipient => "the caller takes this server for another one: correct the addresses in `cluster.peers`",
        Refusal::Protocol => "the server there runs a version too old or too new to be in one cell with this one",
        Refusal::Secret => "give every server of the cell the same `cluster.secret_file`",
        Refusal::Malformed => "the caller is no Flotilla server, or has a bug: see which program runs there",
        Refusal::NotServing => "wait until this server has started",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_told_once_a_minute_for_each_kind_and_address() {
        let tally = Tally::default();
        let address = |last: u8| Some(IpAddr::from([127, 0, 0, last]));
        assert!(tally.is_due(Refusal::Secret, address(1)));
        assert!(!tally.is_due(Refusal::Secret, address(1)));
        assert!(tally.is_due(Refusal::Cell, address(1)));
        assert!(tally.is_due(Refusal::Secret, address(2)));
    }

    #[test]
    fn who_calls_from_many_addresses_fills_no_memory() {
        let tally = Tally::default();
        for number in 0..10_000_u32 {
            tally.is_due(Refusal::Secret, Some(IpAddr::from(number.to_be_bytes())));
        }
        assert_eq!(tally.told.lock().expect("no panic").len(), MAX_TOLD);
    }
}
