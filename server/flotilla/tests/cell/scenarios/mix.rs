//! One thing after the other, at random: what `make soak` does for hours.

use rand::{Rng, seq::IndexedRandom};

use super::{disks, links, processes, time};
use crate::stage::{Playing, Stage};

/// So many in a row, before everything is held against everything.
const COUNT: usize = 3;

type Play = for<'a> fn(&'a mut Stage) -> Playing<'a>;

/// Without what needs a cell of its own kind, or says what must not happen to an undisturbed one.
const CHOICES: &[Play] = &[
    |stage| Box::pin(processes::the_leader_is_killed(stage)),
    |stage| Box::pin(processes::a_follower_is_killed(stage)),
    |stage| Box::pin(processes::two_are_killed_and_nothing_is_acknowledged_until_one_is_back(stage)),
    |stage| Box::pin(processes::the_leader_sleeps_past_an_election_and_tells_nothing_stale_when_it_wakes(stage)),
    |stage| Box::pin(processes::all_are_restarted_one_after_the_other_and_no_request_fails(stage)),
    |stage| Box::pin(links::one_server_is_200_ms_away_and_loses_packets(stage)),
    |stage| Box::pin(time::three_data_centres_are_30_ms_apart(stage)),
    |stage| Box::pin(time::a_clock_jumps_and_the_log_s_time_never_goes_back(stage)),
    |stage| Box::pin(disks::a_wiped_server_is_a_new_one_and_votes_again(stage)),
    |stage| Box::pin(disks::a_server_that_was_away_for_long_catches_up_by_snapshot(stage)),
];

pub(super) async fn anything_at_random(stage: &mut Stage) {
    for _ in 0..COUNT {
        let play = *CHOICES.choose(&mut stage.random).expect("a choice");
        play(stage).await;
        stage.cell.heal().await;
        let pause = stage.random.random_range(0..1_000);
        stage.work(std::time::Duration::from_millis(pause)).await;
    }
}
