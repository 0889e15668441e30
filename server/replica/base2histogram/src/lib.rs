//! Stands in for the crate of this name that openraft links.
//!
//! openraft keeps histograms of its own inner workings, which only its feature
//! `runtime-stats` can show, and that is off. The original makes lookup tables
//! of 26.7 MB at its first use; this one counts nothing. Patched in by the
//! workspace's `Cargo.toml`; if openraft comes to need more of it, the build
//! says so.

use std::fmt;

/// Records nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    _slots: Vec<T>,
}

impl<T> Histogram<T> {
    /// An empty histogram.
    pub fn new() -> Self {
        Self { _slots: Vec::new() }
    }

    /// Does nothing.
    pub fn record(&mut self, _value: u64) {}

    /// Does nothing.
    pub fn record_n(&mut self, _value: u64, _count: u64) {}

    /// Nothing was recorded.
    pub fn total(&self) -> u64 {
        0
    }

    /// Nothing was recorded.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats::default()
    }
}

/// The percentiles of nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many values.
    pub samples: u64,
    /// A percentile.
    pub p1: u64,
    /// A percentile.
    pub p5: u64,
    /// A percentile.
    pub p10: u64,
    /// A percentile.
    pub p50: u64,
    /// A percentile.
    pub p90: u64,
    /// A percentile.
    pub p99: u64,
    /// A percentile.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("not recorded")
    }
}

/// A chart of nothing.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart;

impl AsciiChart {
    /// An empty chart.
    pub fn new() -> Self {
        Self
    }

    /// Takes no notice.
    #[must_use]
    pub fn add(self, _name: impl Into<String>, _histogram: Histogram) -> Self {
        self
    }

    /// Nothing.
    pub fn render(&self) -> String {
        String::new()
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("not recorded")
    }
}
