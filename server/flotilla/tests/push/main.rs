//! Push on the real binary, while servers are killed, stopped, and lose their power: every event of a thread comes to
//! every device once and in order, and what was pushed is durable.
//!
//! `SEED=… cargo test -p flotilla --test push` repeats the choices of a run.

#[path = "../support/crash/mod.rs"]
#[allow(dead_code, reason = "the crash tests share these, and each uses a part")]
mod crash;
#[allow(dead_code, reason = "the cell tests share it, and each uses a part")]
#[path = "../support/party/mod.rs"]
mod party;
#[cfg(target_os = "linux")]
#[path = "../support/power/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the power cut tests share these, and each uses a part")]
mod power;

mod kills;
#[cfg(target_os = "linux")]
mod power_cuts;
mod renames;

use std::env;

use rand::{SeedableRng, rngs::StdRng};

/// The choices of a run; says how to repeat them.
fn seeded(test: &str) -> StdRng {
    let seed: u64 = env::var("SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("SEED is a number"));
    eprintln!("seed {seed}: SEED={seed} cargo test -p flotilla --test push {test}");
    StdRng::seed_from_u64(seed)
}
