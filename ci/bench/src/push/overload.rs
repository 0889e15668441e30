//! Posts at three times what the server can do, each with a deadline: how many are still answered in time.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Push;
use super::client::Client;
use super::sheet::{Sheet, aim, no_aim, or_dash};
use super::target::Target;
use crate::process::own_cpu_microseconds;
use crate::results::Unit;
use crate::table::number;

const THREADS: usize = 100;
const CONNECTIONS: usize = 32;
/// Calls of a connection, below what the server allows.
const CALLS: usize = 2_000;
const DEADLINE: Duration = Duration::from_millis(500);
const WIDTHS: [usize; 3] = [256, 1_024, 4_096];
const AIM: f64 = 0.8;

struct Reading {
    offered: f64,
    /// Answered with OK within the deadline.
    good: f64,
    late: f64,
    refused: f64,
    p99: Option<f64>,
    server: f64,
    client: f64,
}

pub(crate) fn measure(push: &Push) -> Result<Sheet> {
    let folder = push.fresh_folder("overload")?;
    let mut target = Target::flotilla(&push.flotilla, &folder, THREADS)?;
    target.with_deadline(DEADLINE.as_millis() as u32);
    let time = push.time * 2;
    let mut sheet = Sheet::new(
        "PostMessage with a deadline of 500 ms",
        &[
            "load",
            "offered",
            "answered in time",
            "late",
            "refused",
            "p99 of OK",
            "server, client CPU",
            "of peak",
            "aim",
        ],
    );
    let mut peak: f64 = 0.0;
    let mut best = WIDTHS[0];
    for width in WIDTHS {
        let reading = load(&target, time, |client, _| width.saturating_sub(client.underway()))?;
        push.say(&format!("overload: {width} in flight: {} answered in time", reading.good as u64));
        if reading.good > peak {
            (peak, best) = (reading.good, width);
        }
        row(&mut sheet, format!("{width} in flight"), &reading, None, no_aim());
    }
    let rate = 3.0 * peak;
    let reading = load(&target, time * 2, |client, elapsed| {
        ((elapsed.as_secs_f64() * rate) as usize).saturating_sub(client.sent)
    })?;
    push.say(&format!("overload: {} offered: {} answered in time", reading.offered as u64, reading.good as u64));
    let verdict = aim(format!("≥ {AIM} × peak"), reading.good >= AIM * peak);
    row(&mut sheet, "3 × peak, open".to_owned(), &reading, Some(reading.good / peak), verdict);
    let after = load(&target, time, |client, _| best.saturating_sub(client.underway()))?;
    row(&mut sheet, format!("then {best} in flight"), &after, Some(after.good / peak), no_aim());
    sheet.note(
        "100 threads, 100 callers, 32 connections; no subscribers. Offered is what the client, on the same cores, brought \
         about. Counted over the load and the half second after it in which its last answers come.",
    );
    Ok(sheet)
}

fn row(sheet: &mut Sheet, name: String, reading: &Reading, of_peak: Option<f64>, aim: String) {
    sheet.row([
        name,
        number(reading.offered, Unit::PerSecond),
        number(reading.good, Unit::PerSecond),
        number(reading.late, Unit::PerSecond),
        number(reading.refused, Unit::PerSecond),
        or_dash(reading.p99, Unit::Microseconds),
        format!("{:.0} %, {:.0} %", reading.server * 100.0, reading.client * 100.0),
        of_peak.map_or_else(no_aim, |share| format!("{share:.2}")),
        aim,
    ]);
}

/// A client, and how many it has sent.
struct Load {
    client: Client,
    sent: usize,
}

impl Load {
    fn underway(&self) -> usize {
        let done = self.client.tally.answered + self.client.tally.refused;
        self.sent - done as usize
    }
}

/// Sends as many as `wanted` says at each turn. A quarter of the time warms up.
fn load(target: &Target, time: Duration, wanted: impl Fn(&Load, Duration) -> usize) -> Result<Reading> {
    let mut client = Client::new(target.server.address)?;
    let poster = target.poster(&mut client, CONNECTIONS)?;
    let mut load = Load { client, sent: 0 };
    let warm_up = time / 4;
    let begun = Instant::now();
    let mut before = None;
    while begun.elapsed() < warm_up + time {
        if before.is_none() && begun.elapsed() >= warm_up {
            load.client.tally.measure_from_here();
            let counts = (load.sent, load.client.tally.refused);
            before = Some((counts, target.server.process.cpu_microseconds()?, own_cpu_microseconds()?));
        }
        // Some at a time, so that answers are read in between.
        for _ in 0..wanted(&load, begun.elapsed()).min(256) {
            let connection = poster + load.sent % CONNECTIONS;
            if load.client.open(connection) >= CALLS {
                break;
            }
            target.post(&mut load.client, connection)?;
            load.sent += 1;
        }
        load.client.turn(Duration::from_millis(1))?;
    }
    let seconds = (begun.elapsed() - warm_up).as_secs_f64();
    let ((sent, refused), server, own) = before.unwrap_or_default();
    let server = (target.server.process.cpu_microseconds()? - server) / seconds / 1e6;
    let client = (own_cpu_microseconds()? - own) / seconds / 1e6;
    let offered = (load.sent - sent) as f64;
    let refused = load.client.tally.refused - refused;
    load.client.idle(DEADLINE)?;
    let answers = &load.client.tally.answer;
    let good = answers.within(DEADLINE.as_micros() as u64);
    Ok(Reading {
        offered: offered / seconds,
        good: good as f64 / seconds,
        late: (answers.count() - good) as f64 / seconds,
        refused: f64::from(refused) / seconds,
        p99: answers.microseconds(0.99),
        server,
        client,
    })
}
