//! Subscribers that read nothing while a thread is at full load: what they take of the server's memory, and of the others'
//! time.

use std::time::Duration;

use anyhow::Result;

use super::Push;
use super::fan_out::full_load;
use super::sheet::{Sheet, pair};
use super::target::{STREAMS, Target};
use crate::results::Unit;
use crate::table::number;

const SUBSCRIBERS: usize = 1_000;
const STALLED: usize = 10;

pub(crate) fn measure(push: &Push) -> Result<Sheet> {
    let folder = push.fresh_folder("stalled")?;
    let target = Target::flotilla(&push.flotilla, &folder, 1)?;
    let mut client = target.subscribed(SUBSCRIBERS, STREAMS)?;
    let poster = target.poster(&mut client, 1)?;
    client.tally.expect(SUBSCRIBERS);
    let mut sheet = Sheet::new(
        "1,000 subscribers of one thread at full load",
        &["", "deliveries/s", "post to each, p50 / p99", "resident before, after", "most"],
    );
    let half = push.idle_time / 2;
    let phases = [("all read", half), ("all read, once more", half), ("and 10 that read nothing", push.idle_time)];
    for (place, (name, time)) in phases.into_iter().enumerate() {
        if place == 2 {
            for stalled in 0..STALLED {
                let wanted = client.tally.opened + 1;
                let first = (SUBSCRIBERS + stalled) * STREAMS;
                let connection = target.subscribe(&mut client, first..first + 1)?;
                client.until("subscribing", Duration::from_secs(10), |tally| tally.opened >= wanted)?;
                client.stall(connection);
            }
        }
        let before = target.server.process.memory()?.resident;
        let full = full_load(&mut client, &target, poster, SUBSCRIBERS, push.time / 4, time)?;
        let memory = target.server.process.memory()?;
        let each = pair(client.tally.each.microseconds(0.50), client.tally.each.microseconds(0.99));
        push.say(&format!("stalled: {name}: {} deliveries/s, {each}, {:.0} MiB", full.rate as u64, memory.resident));
        sheet.row([
            format!("{name}, {:.1} s", time.as_secs_f64()),
            number(full.rate, Unit::PerSecond),
            each,
            format!("{before:.1}, {:.1} MiB", memory.resident),
            format!("{:.1} MiB", memory.peak),
        ]);
    }
    sheet.note(
        "Those that read nothing have a connection each and endless HTTP/2 windows; only TCP holds them up. Aim: no extra \
         memory, no effect on others.",
    );
    Ok(sheet)
}
