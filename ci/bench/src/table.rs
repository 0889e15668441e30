//! The results as one markdown table, and as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::results::{Line, Results, Unit};

const HEAD: &str = "\
| what | in flight | server | median | p50 | p99 | server CPU/op | ops/fsync | flotilla is | aim |
|---|--:|---|--:|--:|--:|--:|--:|---|---|
";

/// The table. A dash: it doesn't apply, or wasn't measured.
pub(crate) fn markdown(results: &Results) -> String {
    let mut table = HEAD.to_owned();
    for line in results.lines() {
        let in_flight = line.key.in_flight.map(|number| grouped(number as f64));
        let value = line.value().map(|value| number(value, line.unit));
        let time = |time: Option<f64>| time.map(|time| number(time, Unit::Microseconds));
        let cells = [
            Some(line.key.cell.clone()),
            in_flight,
            Some(line.key.server.to_owned()),
            Some(value.unwrap_or_else(|| "not run".to_owned())),
            time(line.median(|reading| reading.p50)),
            time(line.median(|reading| reading.p99)),
            time(line.median(|reading| reading.cpu_per_op)),
            line.median(|reading| reading.ops_per_fsync).map(|ops| format!("{ops:.1}")),
            ratios(results, line),
            verdicts(results, line),
        ];
        let cells = cells.map(|cell| cell.unwrap_or_else(|| "–".to_owned()));
        table.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    table
}

/// Every round of every line, with the medians, ratios and verdicts of the table.
pub(crate) fn lines(results: &Results) -> Value {
    let line = |line: &Line| {
        json!({
            "line": line,
            "median": {
                "value": line.value(),
                "p50_us": line.median(|reading| reading.p50),
                "p99_us": line.median(|reading| reading.p99),
                "cpu_us_per_op": line.median(|reading| reading.cpu_per_op),
                "ops_per_fsync": line.median(|reading| reading.ops_per_fsync),
            },
            "beside": results.beside(line),
            "aims": results.verdicts(line),
        })
    };
    results.lines().into_iter().map(line).collect()
}

fn ratios(results: &Results, line: &Line) -> Option<String> {
    if line.key.server != "flotilla" {
        return None;
    }
    let texts = results.beside(line).into_iter().map(|peer| format!("{:.2} × {}", peer.ratio, peer.server));
    Some(texts.collect::<Vec<_>>().join(", ")).filter(|text| !text.is_empty())
}

fn verdicts(results: &Results, line: &Line) -> Option<String> {
    let text = |verdict: crate::results::Verdict| match verdict.met {
        Some(true) => format!("{}: met", verdict.aim),
        Some(false) => format!("{}: short", verdict.aim),
        None => format!("{}: not measured", verdict.aim),
    };
    let texts = results.verdicts(line).into_iter().map(text);
    Some(texts.collect::<Vec<_>>().join(", ")).filter(|text| !text.is_empty())
}

/// A number with its unit, in as many digits as mean something.
pub(crate) fn number(value: f64, unit: Unit) -> String {
    match unit {
        Unit::PerSecond => format!("{}/s", grouped(value)),
        Unit::RowsPerSecond => format!("{} rows/s", grouped(value)),
        Unit::Mebibytes => format!("{value:.0} MiB"),
        Unit::Milliseconds if value >= 10_000.0 => format!("{:.1} s", value / 1000.0),
        Unit::Milliseconds => format!("{} ms", grouped(value)),
        Unit::Microseconds if value >= 1000.0 => format!("{:.2} ms", value / 1000.0),
        Unit::Microseconds if value >= 100.0 => format!("{value:.0} µs"),
        Unit::Microseconds => format!("{value:.1} µs"),
        Unit::PercentOfOneCore => format!("{value:.1} % of a core"),
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            let _ = text.write_char(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;
    use crate::results::{Key, Reading};

    #[test]
    fn numbers_carry_their_unit_and_are_grouped_by_thousands() {
        assert_eq!(number(1_234_567.2, Unit::PerSecond), "1,234,567/s");
        assert_eq!(number(999.0, Unit::RowsPerSecond), "999 rows/s");
        assert_eq!(number(12.34, Unit::Microseconds), "12.3 µs");
        assert_eq!(number(5_250.0, Unit::Microseconds), "5.25 ms");
        assert_eq!(number(12_345.0, Unit::Milliseconds), "12.3 s");
    }

    #[test]
    fn a_peer_that_is_missing_is_named_in_the_table() {
        let mut results = Results::default();
        let key = Key::new("PutRecord", 64, "etcd");
        results.record(key, Unit::PerSecond, 0, Err(anyhow!("etcd is not in PATH")));
        let key = Key::new("PutRecord", 64, "flotilla");
        results.record(key, Unit::PerSecond, 0, Ok(Reading::of(24_000.0)));
        let table = markdown(&results);
        assert!(table.contains("| PutRecord | 64 | etcd | not run | – |"), "{table}");
        assert!(table.contains("| PutRecord | 64 | flotilla | 24,000/s | – |"), "{table}");
    }
}
