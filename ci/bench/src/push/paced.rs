//! 1,000 subscribers over 100 threads at 5,000 posts a second: from a post to its subscribers, beside the fsync that it
//! waits for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Push;
use super::client::Client;
use super::sheet::{Sheet, aim, middle, no_aim, or_dash, pair};
use super::target::{STREAMS, Target};
use crate::disk::fdatasync_loop;
use crate::process::metrics;
use crate::results::Unit;
use crate::servers::Fsyncs;

const SUBSCRIBERS: usize = 1_000;
const THREADS: usize = 100;
const RATE: f64 = 5_000.0;
/// Beyond one fsync.
const AIM_MICROSECONDS: f64 = 2_000.0;
const POSTERS: usize = 4;

#[derive(Default)]
struct Reading {
    each: [Option<f64>; 2],
    last: [Option<f64>; 2],
    after_answer: [Option<f64>; 2],
    posts: f64,
    cpu: f64,
    fsync: [Option<f64>; 2],
    bare: [Option<f64>; 2],
}

pub(crate) fn measure(push: &Push) -> Result<Sheet> {
    let folder = push.fresh_folder("paced")?;
    let target = Target::flotilla(&push.flotilla, &folder, THREADS)?;
    let mut client = target.subscribed(SUBSCRIBERS, STREAMS)?;
    let poster = target.poster(&mut client, POSTERS)?;
    client.tally.expect(SUBSCRIBERS / THREADS);
    let mut readings = Vec::new();
    for round in 0..push.rounds {
        let bare = fdatasync_loop(&folder, push.time)?;
        let mut reading = one(push, &target, &mut client, poster)?;
        reading.bare = [bare.microseconds(0.50), bare.microseconds(0.99)];
        push.say(&format!(
            "round {}: paced: {} posts/s, {}",
            round + 1,
            reading.posts as u64,
            pair(reading.each[0], reading.each[1])
        ));
        readings.push(reading);
    }
    let of = |number: fn(&Reading) -> Option<f64>| middle(readings.iter().map(number));
    let mut sheet = Sheet::new(
        "1,000 subscribers over 100 threads at 5,000 posts/s (50,000 deliveries/s)",
        &["", "p50 / p99", "aim"],
    );
    let (p50, p99) = (of(|reading| reading.each[0]), of(|reading| reading.each[1]));
    let fsync = (of(|reading| reading.fsync[0]), of(|reading| reading.fsync[1]));
    let bare = (of(|reading| reading.bare[0]), of(|reading| reading.bare[1]));
    let met = p99.zip(fsync.1).map(|(p99, fsync)| p99 <= fsync + AIM_MICROSECONDS);
    let verdict = met.map_or_else(no_aim, |met| aim("p99 ≤ p99 of the log's fsync + 2 ms", met));
    sheet.row(["post to each subscriber".to_owned(), pair(p50, p99), verdict]);
    sheet.row(["post to its last subscriber".to_owned(), pair(of(|r| r.last[0]), of(|r| r.last[1])), no_aim()]);
    let after = pair(of(|reading| reading.after_answer[0]), of(|reading| reading.after_answer[1]));
    sheet.row(["the post's answer to its last subscriber".to_owned(), after, no_aim()]);
    sheet.row(["the log's fsync in that time, by the server's metrics".to_owned(), pair(fsync.0, fsync.1), no_aim()]);
    sheet.row([
        "bare fdatasync of 256 bytes, just before, nothing else running".to_owned(),
        pair(bare.0, bare.1),
        no_aim(),
    ]);
    sheet.note(format!(
        "Posted {}, server at {:.0} % of a core.",
        or_dash(of(|reading| Some(reading.posts)), Unit::PerSecond),
        of(|reading| Some(reading.cpu * 100.0)).unwrap_or_default()
    ));
    Ok(sheet)
}

fn one(push: &Push, target: &Target, client: &mut Client, poster: usize) -> Result<Reading> {
    let Fsyncs::Metrics { address, .. } = target.server.fsyncs else { return Ok(Reading::default()) };
    pace(target, client, poster, push.time)?;
    client.tally.measure_from_here();
    let (before, posts, cpu) = (fsyncs(address)?, client.tally.posts(), target.server.process.cpu_microseconds()?);
    let begun = Instant::now();
    pace(target, client, poster, push.time * 3)?;
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = (target.server.process.cpu_microseconds()? - cpu) / seconds / 1e6;
    let after = fsyncs(address)?;
    client.until("paced posts to everybody", Duration::from_secs(30), |tally| tally.underway() == 0)?;
    let tally = &client.tally;
    Ok(Reading {
        each: [tally.each.microseconds(0.50), tally.each.microseconds(0.99)],
        last: [tally.last.microseconds(0.50), tally.last.microseconds(0.99)],
        after_answer: [tally.after_answer.microseconds(0.50), tally.after_answer.microseconds(0.99)],
        posts: f64::from(tally.posts() - posts) / seconds,
        cpu,
        fsync: [percentile(&before, &after, 0.50), percentile(&before, &after, 0.99)],
        bare: [None; 2],
    })
}

/// Posts at the rate, whatever comes back.
fn pace(target: &Target, client: &mut Client, poster: usize, time: Duration) -> Result<()> {
    let begun = Instant::now();
    let mut sent = 0_u64;
    while begun.elapsed() < time {
        let due = (begun.elapsed().as_secs_f64() * RATE) as u64;
        while sent < due {
            target.post(client, poster + sent as usize % POSTERS)?;
            sent += 1;
        }
        client.turn(Duration::from_millis(1))?;
    }
    Ok(())
}

/// How many fsyncs took at most so many nanoseconds, by the server's histogram.
fn fsyncs(address: SocketAddr) -> Result<BTreeMap<u64, f64>> {
    let text = metrics(address)?;
    let bucket = |line: &str| {
        let line = line.strip_prefix("flotilla_log_fsync_seconds_bucket{le=\"")?;
        let (bound, rest) = line.split_once('"')?;
        let bound: f64 = if bound == "+Inf" { f64::MAX } else { bound.parse().ok()? };
        Some(((bound * 1e9) as u64, rest.rsplit(' ').next()?.parse().ok()?))
    };
    let buckets: BTreeMap<u64, f64> = text.lines().filter_map(bucket).collect();
    (!buckets.is_empty()).then_some(buckets).context("no flotilla_log_fsync_seconds at /metrics")
}

/// In microseconds, between the bounds of the bucket in proportion.
fn percentile(before: &BTreeMap<u64, f64>, after: &BTreeMap<u64, f64>, fraction: f64) -> Option<f64> {
    let counts: Vec<(u64, f64)> =
        after.iter().map(|(bound, count)| (*bound, count - before.get(bound).unwrap_or(&0.0))).collect();
    let rank = counts.last()?.1 * fraction;
    let place = counts.iter().position(|(_, count)| *count >= rank)?;
    let (low, below) = place.checked_sub(1).map_or((0, 0.0), |former| counts[former]);
    let (high, within) = counts[place];
    let part = if within > below { (rank - below) / (within - below) } else { 1.0 };
    Some((low as f64 + (high.saturating_sub(low)) as f64 * part) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_lies_between_the_bounds_of_its_bucket() {
        let before = BTreeMap::from([(1_000_000, 10.0), (2_000_000, 10.0)]);
        let after = BTreeMap::from([(1_000_000, 10.0), (2_000_000, 110.0)]);
        assert_eq!(percentile(&before, &after, 0.50), Some(1_500.0));
        assert_eq!(percentile(&before, &after, 0.99), Some(1_990.0));
    }
}
