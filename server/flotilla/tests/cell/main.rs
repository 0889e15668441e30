//! A cell of three loses nothing and is linearizable, whatever happens to its servers: the real binary, real sockets,
//! each server in a network namespace of its own.
//!
//! # Layout
//!
//! * [`network`], [`links`], [`machine`]: cables, delays, clocks and disks, and what goes wrong with them.
//! * [`cell`]: the servers.
//! * [`clients`], [`history`], [`linearizability`]: who reads and writes, what they saw, and whether it can be so.
//!   `self_test` proves that the checker can fail.
//! * [`feed`], `support/party`: who watches records, and who posts to and follows threads.
//! * [`stage`]: what every scenario begins and ends with.
//! * [`scenarios`]: what happens, a sentence each.
//!
//! `cargo test -p flotilla --test cell NAME` plays one; `SEED=…` repeats a run's choices; `-- --nocapture` tells what
//! happens while it does. `SOAK=1 SOAK_MINUTES=240` plays the random mix for long (`make soak`). They run one at a time,
//! because each is a whole cell. Without root, or elsewhere than on Linux, scenarios are reported as ignored, by name.

mod cell;
mod clients;
#[path = "../support/crash/mod.rs"]
#[allow(dead_code, reason = "the crash tests share these, and each uses a part")]
mod crash;
mod feed;
mod history;
mod linearizability;
mod links;
mod machine;
mod network;
#[path = "../support/party/mod.rs"]
#[allow(dead_code, reason = "the push tests share it, and each uses a part")]
mod party;
mod scenarios;
mod self_test;
mod stage;

use std::{
    env,
    process::ExitCode,
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    cell::tell_all(arguments.nocapture);
    let why_not = network::missing();
    if let Some(why_not) = why_not {
        eprintln!("scenarios are ignored: {why_not}");
    }
    let trials = match soak() {
        Some(time) => vec![Trial::test("anything_at_random_for_long", move || {
            soaked(time);
            Ok(())
        })],
        None => self_tests().into_iter().chain(scenarios::ALL.iter().map(trial)).collect(),
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(scenario: &'static stage::Scenario) -> Trial {
    let run = || {
        scenario.run(seed());
        Ok(())
    };
    // `-- --include-ignored NAME` plays it all the same.
    let failing = scenarios::FAILING.contains(&scenario.name);
    Trial::test(scenario.name, run).with_ignored_flag(failing || network::missing().is_some())
}

fn self_tests() -> Vec<Trial> {
    let tests: [(&str, fn()); 6] = [
        ("a_stale_read_is_refused", self_test::a_stale_read_is_refused),
        ("a_lost_update_is_refused", self_test::a_lost_update_is_refused),
        ("a_retry_that_is_applied_twice_is_refused", self_test::a_retry_that_is_applied_twice_is_refused),
        (
            "what_had_no_answer_may_have_happened_late_or_never",
            self_test::what_had_no_answer_may_have_happened_late_or_never,
        ),
        ("long_histories_are_checked_at_once", self_test::long_histories_are_checked_at_once),
        ("stateright_says_the_same_of_random_histories", self_test::stateright_says_the_same_of_random_histories),
    ];
    let trial = |(name, test): (&str, fn())| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    tests.map(trial).into()
}

/// The random mix again and again, each time with another seed, or always with the one that is named.
fn soaked(time: Duration) {
    assert_eq!(network::missing(), None, "the soak can't be done here");
    let mix = scenarios::ALL.last().expect("the mix");
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < time {
        mix.run(seed());
        count += 1;
        eprintln!("{count} mixes in {:.0?}", began.elapsed());
    }
}

fn seed() -> u64 {
    env::var("SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("SEED is a number"))
}

fn soak() -> Option<Duration> {
    env::var("SOAK").is_ok_and(|soak| soak == "1").then(|| {
        let minutes =
            env::var("SOAK_MINUTES").map_or(240, |minutes| minutes.parse().expect("SOAK_MINUTES is a number"));
        Duration::from_secs(60 * minutes)
    })
}
