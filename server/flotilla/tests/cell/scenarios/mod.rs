//! What may go wrong in a cell, a sentence each. Each does its harm and undoes it, so that they can also follow each
//! other at random ([`mix`]).

mod disks;
mod links;
mod mix;
mod processes;
mod time;

use crate::{
    cell::Plan,
    stage::{Playing, Scenario, Stage},
};

/// A scenario by the function of its name.
macro_rules! scenario {
    ($plan:expr, $module:ident::$name:ident) => {
        Scenario {
            name: stringify!($name),
            plan: $plan,
            play: {
                fn play(stage: &mut Stage) -> Playing<'_> {
                    Box::pin($module::$name(stage))
                }
                play
            },
        }
    };
}

/// Small logs, so that who was away comes back by a snapshot.
const SHORT_LOG: Plan = Plan { limits: "min_free_disk = \"1 MiB\"\nsnapshot_log = \"256 KiB\"", ..Plan::THREE };
const DELAYS: Plan = Plan { delays: true, ..Plan::THREE };
/// Three data centres.
const FAR: Plan = Plan { delays: true, cluster: "heartbeat = \"300ms\"\nelection = \"2s\"", ..Plan::THREE };
const SMALL_DISK: Plan = Plan { small_disk: Some((2, 160)), limits: "min_free_disk = \"16 MiB\"", ..Plan::THREE };

/// Those that fail for a reason that is known: ignored unless they are asked for. A disk that something else
/// fills to its last byte costs a server its log until it is restarted (README, honest limits), so `one_disk_is_full`
/// has no server 2 to go on with.
pub(crate) const FAILING: [&str; 1] = ["one_disk_is_full"];

/// All of them.
pub(crate) const ALL: &[Scenario] = &[
    scenario!(Plan::ONE, processes::a_lone_server_is_killed_and_paused),
    scenario!(Plan::THREE, processes::the_leader_is_killed),
    scenario!(Plan::THREE, processes::a_follower_is_killed),
    scenario!(Plan::THREE, processes::two_are_killed_and_nothing_is_acknowledged_until_one_is_back),
    scenario!(Plan::THREE, processes::the_leader_sleeps_past_an_election_and_tells_nothing_stale_when_it_wakes),
    scenario!(Plan::THREE, processes::all_are_restarted_one_after_the_other_and_no_request_fails),
    scenario!(Plan::THREE, links::the_leader_is_cut_off_alone),
    scenario!(Plan::THREE, links::a_follower_is_cut_off_and_deposes_nobody_when_it_is_back),
    scenario!(Plan::THREE, links::two_can_only_talk_through_the_third),
    scenario!(Plan::THREE, links::the_leader_hears_the_others_and_is_not_heard),
    scenario!(Plan::THREE, links::the_leader_is_heard_and_hears_nobody),
    scenario!(DELAYS, links::one_server_is_200_ms_away_and_loses_packets),
    scenario!(FAR, time::three_data_centres_are_30_ms_apart),
    scenario!(Plan::THREE, time::a_clock_jumps_and_the_log_s_time_never_goes_back),
    scenario!(SMALL_DISK, disks::one_disk_is_full),
    scenario!(Plan::THREE, disks::the_leader_s_disk_is_slow),
    scenario!(SHORT_LOG, disks::a_wiped_server_is_a_new_one_and_votes_again),
    scenario!(SHORT_LOG, disks::a_server_that_was_away_for_long_catches_up_by_snapshot),
    scenario!(Plan { delays: true, ..SHORT_LOG }, mix::anything_at_random),
];
