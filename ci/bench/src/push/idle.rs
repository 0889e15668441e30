//! Subscribers that nothing is sent to: what each takes of the server's memory, and all of its CPU.

use std::time::Duration;

use anyhow::Result;

use super::Push;
use super::sheet::{Sheet, aim, no_aim};
use super::target::{STREAMS, Target};

/// KiB a subscriber.
const AIM_SHARED: f64 = 12.0;
const AIM_OWN: f64 = 40.0;
/// Percent of a core.
const AIM_CPU: f64 = 1.0;
/// Until what the subscribing left behind is settled.
const SETTLE: Duration = Duration::from_millis(1_500);

pub(crate) fn measure(push: &Push) -> Result<Sheet> {
    let mut sheet = Sheet::new(
        format!("{} idle subscribers", push.idle),
        &["", "server", "KiB a subscriber", "resident before, after", "CPU when idle, of a core", "aim"],
    );
    let cells = [("100 a connection", STREAMS, AIM_SHARED), ("a connection each", 1, AIM_OWN)];
    for (name, streams, bound) in cells {
        for ours in [true, false] {
            let folder = push.fresh_folder("idle")?;
            let target = match ours {
                true => Target::flotilla(&push.flotilla, &folder, 1)?,
                false => Target::streams(&folder)?,
            };
            // What the first ones make the server allocate isn't the others'.
            drop(target.subscribed(STREAMS, STREAMS)?);
            std::thread::sleep(SETTLE / 3);
            let before = target.server.process.memory()?.resident;
            let mut client = target.subscribed(push.idle, streams)?;
            client.idle(SETTLE)?;
            let after = target.server.process.memory()?.resident;
            let each = (after - before) * 1024.0 / push.idle as f64;
            // Heartbeats come every 20 seconds.
            let long = ours && streams == STREAMS;
            let time = if long { push.idle_time } else { SETTLE };
            let cpu = target.server.process.cpu_microseconds()?;
            client.idle(time)?;
            let cpu = (target.server.process.cpu_microseconds()? - cpu) / time.as_micros() as f64 * 100.0;
            let mut aims = vec![aim(format!("≤ {bound} KiB"), each <= bound)];
            if long {
                aims.push(aim(format!("≤ {AIM_CPU} % CPU"), cpu <= AIM_CPU));
            }
            push.say(&format!("idle: {name}: {}: {each:.1} KiB, {cpu:.2} % of a core", target.name));
            sheet.row([
                name.to_owned(),
                target.name.to_owned(),
                format!("{each:.1}"),
                format!("{before:.0}, {after:.0} MiB"),
                format!("{cpu:.2} % over {:.1} s", time.as_secs_f64()),
                if ours { aims.join(", ") } else { no_aim() },
            ]);
        }
    }
    Ok(sheet)
}
