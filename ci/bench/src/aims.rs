//! What the figures should be. A benchmark fails nothing: an aim that isn't reached is said in the table.

use crate::cells::{batch, floor, memory, reads, writes};
use crate::results::{Key, Unit};
use crate::servers::Disk;
use crate::table::number;

/// A bound on a line's median, or on its ratio to a peer.
pub(crate) enum Aim {
    AtLeast(f64),
    AtMost(f64),
    TimesAtLeast(f64, &'static str),
    TimesAtMost(f64, &'static str),
}

impl Aim {
    /// As the table says it.
    pub(crate) fn text(&self, unit: Unit) -> String {
        match self {
            Aim::AtLeast(bound) => format!("≥ {}", number(*bound, unit)),
            Aim::AtMost(bound) => format!("≤ {}", number(*bound, unit)),
            Aim::TimesAtLeast(factor, server) => format!("≥ {factor} × {server}"),
            Aim::TimesAtMost(factor, server) => format!("≤ {factor} × {server}"),
        }
    }
}

/// The aims of one line; only Flotilla's have any.
pub(crate) fn aims_of(key: &Key) -> Vec<Aim> {
    if key.server != "flotilla" {
        return Vec::new();
    }
    let own_speed = writes::cell(Disk::OwnSpeed);
    let slower = writes::cell(Disk::Slower);
    let cell = key.cell.as_str();
    match (cell, key.in_flight) {
        (_, Some(64)) if cell == own_speed || cell == slower => {
            vec![Aim::TimesAtLeast(1.0, "redis"), Aim::TimesAtLeast(1.0, writes::REDIS_UNPIPELINED)]
        }
        (_, Some(1024)) if cell == own_speed => {
            vec![Aim::AtLeast(40_000.0), Aim::TimesAtLeast(4.0, "etcd")]
        }
        (_, Some(1024)) if cell == slower => vec![Aim::AtLeast(30_000.0)],
        (floor::CELL, _) => vec![Aim::TimesAtMost(1.5, floor::SUM)],
        (batch::CELL, _) => vec![Aim::TimesAtLeast(0.75, "sled")],
        (reads::CELL, _) => vec![Aim::TimesAtLeast(0.65, "echo")],
        (memory::RESIDENT_EMPTY, _) => vec![Aim::AtMost(30.0)],
        (memory::RESIDENT_WRITTEN, _) => vec![Aim::AtMost(256.0)],
        (memory::RESIDENT_RESTARTED, _) => vec![Aim::AtMost(80.0)],
        (memory::START_EMPTY, _) => vec![Aim::AtMost(150.0)],
        (memory::START_STOPPED | memory::START_KILLED, _) => vec![Aim::AtMost(500.0)],
        (memory::IDLE_EMPTY | memory::IDLE_ROWS, _) => vec![Aim::AtMost(0.5)],
        _ => Vec::new(),
    }
}
