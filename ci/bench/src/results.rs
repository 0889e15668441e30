//! What was measured, round by round, and what is made of it: medians, ratios, and which aims are met.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde::{Serialize, Serializer};

use crate::aims::{Aim, aims_of};
use crate::statistics::{median, median_ratio};

/// One measurement of one round. `value` is in its line's unit, times are in microseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Reading {
    pub(crate) value: f64,
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    /// The server process's user and system time for each operation.
    pub(crate) cpu_per_op: Option<f64>,
    pub(crate) ops_per_fsync: Option<f64>,
}

impl Reading {
    /// A value alone.
    pub(crate) fn of(value: f64) -> Self {
        Self { value, ..Self::default() }
    }
}

/// What a line's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Unit {
    PerSecond,
    RowsPerSecond,
    Mebibytes,
    Milliseconds,
    Microseconds,
    PercentOfOneCore,
}

/// What a line is about. Lines of one cell and one number in flight are compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Key {
    pub(crate) cell: String,
    pub(crate) in_flight: Option<usize>,
    pub(crate) server: &'static str,
}

impl Key {
    pub(crate) fn new(cell: impl Into<String>, in_flight: impl Into<Option<usize>>, server: &'static str) -> Self {
        Self { cell: cell.into(), in_flight: in_flight.into(), server }
    }
}

/// One row of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    #[serde(flatten)]
    pub(crate) key: Key,
    pub(crate) unit: Unit,
    #[serde(serialize_with = "in_order")]
    pub(crate) rounds: BTreeMap<usize, Reading>,
    /// Why rounds are missing.
    pub(crate) trouble: Option<String>,
}

fn in_order<S: Serializer>(rounds: &BTreeMap<usize, Reading>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(rounds.values())
}

impl Line {
    /// The median over the rounds of one of a reading's numbers.
    pub(crate) fn median(&self, number: impl Fn(&Reading) -> Option<f64>) -> Option<f64> {
        median(self.rounds.values().filter_map(number))
    }

    pub(crate) fn value(&self) -> Option<f64> {
        self.median(|reading| Some(reading.value))
    }

    fn values(&self) -> BTreeMap<usize, f64> {
        self.rounds.iter().map(|(round, reading)| (*round, reading.value)).collect()
    }
}

/// A ratio to another line of the same cell.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Beside {
    pub(crate) server: &'static str,
    pub(crate) ratio: f64,
}

/// Whether an aim is met; none: what it needs was not measured.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) aim: String,
    pub(crate) met: Option<bool>,
}

/// All lines, in the order in which they were first measured.
#[derive(Debug, Default)]
pub(crate) struct Results {
    lines: Vec<Line>,
}

impl Results {
    /// Adds what a round measured, or why it measured nothing.
    pub(crate) fn record(&mut self, key: Key, unit: Unit, round: usize, measured: Result<Reading>) {
        let line = match self.lines.iter().position(|line| line.key == key) {
            Some(place) => &mut self.lines[place],
            None => {
                self.lines.push(Line { key, unit, rounds: BTreeMap::new(), trouble: None });
                let last = self.lines.len() - 1;
                &mut self.lines[last]
            }
        };
        match measured {
            Ok(reading) => drop(line.rounds.insert(round, reading)),
            Err(error) => line.trouble = Some(format!("round {}: {error:#}", round + 1)),
        }
    }

    /// The lines, those of one cell and number in flight together.
    pub(crate) fn lines(&self) -> Vec<&Line> {
        let mut lines: Vec<&Line> = self.lines.iter().collect();
        let first = |line: &Line| self.lines.iter().position(|other| other.key.cell == line.key.cell);
        lines.sort_by_key(|line| (first(line), line.key.in_flight));
        lines
    }

    /// A line's ratios to its peers.
    pub(crate) fn beside(&self, line: &Line) -> Vec<Beside> {
        let peers = self.lines.iter().filter(|other| {
            other.key.server != line.key.server
                && (&other.key.cell, other.key.in_flight) == (&line.key.cell, line.key.in_flight)
        });
        let ratio = |peer: &Line| {
            let ratio = median_ratio(&line.values(), &peer.values())?;
            Some(Beside { server: peer.key.server, ratio })
        };
        peers.filter_map(ratio).collect()
    }

    /// What has been aimed at for this line, and whether it was reached.
    pub(crate) fn verdicts(&self, line: &Line) -> Vec<Verdict> {
        let beside = self.beside(line);
        let ratio_to = |server| beside.iter().find(|peer| peer.server == server).map(|peer| peer.ratio);
        let verdict = |aim: &Aim| {
            let met = match *aim {
                Aim::AtLeast(bound) => line.value().map(|value| value >= bound),
                Aim::AtMost(bound) => line.value().map(|value| value <= bound),
                Aim::TimesAtLeast(factor, server) => ratio_to(server).map(|ratio| ratio >= factor),
                Aim::TimesAtMost(factor, server) => ratio_to(server).map(|ratio| ratio <= factor),
            };
            Verdict { aim: aim.text(line.unit), met }
        };
        aims_of(&line.key).iter().map(verdict).collect()
    }

    /// Why lines lack a round: each reason once, with the server and the first cell that it kept from running.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let text = |line: &Line| {
            let trouble = line.trouble.as_deref()?;
            let of_server = (line.key.server, trouble.to_owned());
            seen.insert(of_server).then(|| format!("{}: {}: {trouble}", line.key.server, line.key.cell))
        };
        self.lines.iter().filter_map(text).collect()
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;
    use crate::cells::writes;
    use crate::servers::Disk;

    fn measured(rates: &[(&'static str, &[f64])]) -> Results {
        let mut results = Results::default();
        for (server, rounds) in rates {
            for (round, rate) in rounds.iter().enumerate() {
                results.record(
                    Key::new(writes::cell(Disk::OwnSpeed), 1024, server),
                    Unit::PerSecond,
                    round,
                    Ok(Reading::of(*rate)),
                );
            }
        }
        results
    }

    #[test]
    fn a_line_stands_beside_its_peers_by_the_median_of_the_ratios() {
        let results = measured(&[("flotilla", &[40.0, 80.0, 50.0]), ("etcd", &[10.0, 10.0, 10.0])]);
        let lines = results.lines();
        assert_eq!(results.beside(lines[0]), [Beside { server: "etcd", ratio: 5.0 }]);
    }

    #[test]
    fn an_aim_is_met_short_or_unknown_when_its_peer_did_not_run() {
        let met = |results: &Results| -> Vec<Option<bool>> {
            results.verdicts(results.lines()[0]).into_iter().map(|verdict| verdict.met).collect()
        };
        let rates: [(_, &[f64]); 2] = [("flotilla", &[41_000.0]), ("etcd", &[20_000.0])];
        assert_eq!(met(&measured(&rates)), [Some(true), Some(false)]);
        assert_eq!(met(&measured(&rates[..1])), [Some(true), None]);
    }

    #[test]
    fn a_failed_round_leaves_the_others_and_its_reason() {
        let mut results = measured(&[("flotilla", &[1.0, 3.0])]);
        results.record(
            Key::new(writes::cell(Disk::OwnSpeed), 1024, "flotilla"),
            Unit::PerSecond,
            2,
            Err(anyhow!("disk full")),
        );
        assert_eq!(results.lines()[0].value(), Some(2.0));
        assert_eq!(results.troubles(), ["flotilla: durable write, 128 bytes, disk's own speed: round 3: disk full"]);
    }
}
