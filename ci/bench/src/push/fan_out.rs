//! One thread and its subscribers: how long a post takes to the last of them, and how many deliveries a second the server
//! makes, for how much CPU time.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Push;
use super::client::Client;
use super::sheet::{Sheet, aim, middle, no_aim, or_dash, pair};
use super::target::{STREAMS, Target};
use crate::interrupt;
use crate::process::own_cpu_microseconds;
use crate::results::Unit;

/// Between a post that everybody has and the next.
const PAUSE: Duration = Duration::from_millis(2);
/// How long a post may take to everybody.
const LIMIT: Duration = Duration::from_secs(30);
/// Deliveries that are underway at full load, about; posts are 2 to 256.
const UNDERWAY: usize = 20_000;

#[derive(Clone, Copy, Default)]
pub(crate) struct Reading {
    each: [Option<f64>; 2],
    last: [Option<f64>; 2],
    after_answer: [Option<f64>; 2],
    pub(crate) rate: f64,
    pub(crate) per_core: f64,
    client: f64,
}

pub(crate) fn measure(push: &Push) -> Result<Sheet> {
    let folder = push.fresh_folder("fan-out")?;
    let mut sheet = Sheet::new(
        "Fan-out of one thread, texts of 128 bytes",
        &[
            "subscribers",
            "server",
            "one post to each, p50 / p99",
            "to the last, p50 / p99",
            "answer to the last, p50 / p99",
            "deliveries/s",
            "deliveries/s per core",
            "flotilla per core is",
            "aim",
        ],
    );
    let mut targets = Vec::new();
    let started = [
        ("flotilla", Target::flotilla(&push.flotilla, &folder, 1)),
        ("tonic", Target::streams(&folder)),
        ("nats", Target::nats(&folder)),
        ("jetstream", Target::jetstream(&folder)),
    ];
    for (name, target) in started {
        match target {
            Ok(target) => targets.push(target),
            Err(error) => sheet.note(format!("Not run: {name}: {error:#}")),
        }
    }
    let mut readings = vec![vec![Vec::new(); targets.len()]; push.subscribers.len()];
    for round in 0..push.rounds {
        for (row, subscribers) in push.subscribers.iter().enumerate() {
            for (column, target) in targets.iter().enumerate() {
                let reading = one(push, target, *subscribers);
                interrupt::check()?;
                match reading {
                    Ok(reading) => {
                        push.say(&format!(
                            "round {}: {subscribers} subscribers: {}: {} deliveries/s, client at {:.0} % of a core",
                            round + 1,
                            target.name,
                            reading.rate as u64,
                            reading.client * 100.0
                        ));
                        readings[row][column].push(reading);
                    }
                    Err(error) => {
                        sheet.note(format!("Not run: {}, {subscribers} subscribers: {error:#}", target.name));
                    }
                }
            }
        }
    }
    for (row, subscribers) in push.subscribers.iter().enumerate() {
        for (target, rounds) in targets.iter().zip(&readings[row]) {
            let of = |number: fn(&Reading) -> Option<f64>| middle(rounds.iter().map(number));
            let beside = |name: &str| {
                let place = targets.iter().position(|target| target.name == name)?;
                let pairs = rounds.iter().zip(&readings[row][place]);
                middle(pairs.map(|(ours, theirs)| Some(ours.per_core / theirs.per_core)))
            };
            let ours = target.name == "flotilla";
            let ratios =
                ["tonic", "nats", "jetstream"].map(|name| beside(name).map(|ratio| format!("{ratio:.2} × {name}")));
            let tonic = beside("tonic").filter(|_| ours && *subscribers >= STREAMS);
            sheet.row([
                subscribers.to_string(),
                target.name.to_owned(),
                pair(of(|reading| reading.each[0]), of(|reading| reading.each[1])),
                pair(of(|reading| reading.last[0]), of(|reading| reading.last[1])),
                pair(of(|reading| reading.after_answer[0]), of(|reading| reading.after_answer[1])),
                or_dash(of(|reading| Some(reading.rate)), Unit::PerSecond),
                or_dash(of(|reading| Some(reading.per_core)), Unit::PerSecond),
                if ours { ratios.into_iter().flatten().collect::<Vec<_>>().join(", ") } else { no_aim() },
                tonic.map_or_else(no_aim, |ratio| aim("≥ 0.5 × tonic", ratio >= 0.5)),
            ]);
        }
    }
    sheet.note(NOTES);
    Ok(sheet)
}

const NOTES: &str = "\
Median of the rounds, ratios within them; servers take turns. Times are from the sending of a post, one at a time; full
load has about 20,000 deliveries underway. 100 streams a connection; the client is one thread on the same machine.
Per core: deliveries for each second of the server process's CPU time, at full load. Flotilla's posts are durable.
tonic: bare streams of a list in memory, not durable. nats: core, not durable. jetstream: file storage written through
(chattr +S, since this nats-server can't sync each message), pushed after that by one consumer without acknowledgements.";

fn one(push: &Push, target: &Target, subscribers: usize) -> Result<Reading> {
    let mut client = target.subscribed(subscribers, STREAMS)?;
    let poster = target.poster(&mut client, 1)?;
    client.tally.expect(subscribers);
    client.idle(Duration::from_millis(100))?;
    let mut reading = alone(&mut client, target, poster, push.time * 6 / 10)?;
    let full = full_load(&mut client, target, poster, subscribers, push.time / 4, push.time)?;
    reading.rate = full.rate;
    reading.per_core = full.per_core;
    reading.client = full.client;
    Ok(reading)
}

/// One post at a time.
fn alone(client: &mut Client, target: &Target, poster: usize, time: Duration) -> Result<Reading> {
    let begun = Instant::now();
    for number in 0.. {
        // The first ones warm up.
        if number == 3 {
            client.tally.measure_from_here();
        }
        if number > 13 && begun.elapsed() > time {
            break;
        }
        target.post(client, poster)?;
        client.until("one post to everybody", LIMIT, |tally| tally.underway() == 0)?;
        client.idle(PAUSE)?;
    }
    let tally = &client.tally;
    let both = |histogram: &super::client::Histogram| [histogram.microseconds(0.50), histogram.microseconds(0.99)];
    Ok(Reading {
        each: both(&tally.each),
        last: both(&tally.last),
        after_answer: both(&tally.after_answer),
        ..Reading::default()
    })
}

/// What a time at full load came to.
pub(crate) struct Full {
    pub(crate) rate: f64,
    /// Deliveries for each second of the server's CPU time.
    pub(crate) per_core: f64,
    /// The share of a core that the client took.
    pub(crate) client: f64,
}

/// As many posts as everybody receives; the client's times are of those sent in the measured time.
pub(crate) fn full_load(
    client: &mut Client,
    target: &Target,
    poster: usize,
    subscribers: usize,
    warm_up: Duration,
    time: Duration,
) -> Result<Full> {
    let posts = (UNDERWAY / subscribers).clamp(2, 256) as u32;
    let load = |client: &mut Client, time: Duration| -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            while client.tally.underway() < posts {
                target.post(client, poster)?;
            }
            client.turn(Duration::from_millis(10))?;
        }
        Ok(())
    };
    load(client, warm_up)?;
    client.tally.measure_from_here();
    let before =
        (Instant::now(), client.tally.deliveries, target.server.process.cpu_microseconds()?, own_cpu_microseconds()?);
    load(client, time)?;
    let seconds = before.0.elapsed().as_secs_f64();
    let deliveries = (client.tally.deliveries - before.1) as f64;
    let cpu = target.server.process.cpu_microseconds()? - before.2;
    let own = own_cpu_microseconds()? - before.3;
    client.until("full load to everybody", LIMIT, |tally| tally.underway() == 0)?;
    Ok(Full { rate: deliveries / seconds, per_core: deliveries / cpu.max(1.0) * 1e6, client: own / seconds / 1e6 })
}
