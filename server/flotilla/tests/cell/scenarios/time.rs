//! Distances, and clocks that jump.

use std::time::Duration;

use crate::stage::Stage;

/// Jumps, in seconds from the right time.
const JUMPS: [i64; 5] = [3_600, -3_600, 90_000, -7, 0];

pub(super) async fn three_data_centres_are_30_ms_apart(stage: &mut Stage) {
    let links = stage.links.clone().expect("a plan with delays");
    stage.cell.say("each server is 30 ms from each other, there and back");
    links.delay_all(Duration::from_millis(15));
    stage.progress(100).await;
    let leader = stage.cell.leader().await;
    stage.cell.kill(leader);
    stage.progress(50).await;
    stage.cell.start_all().await;
    stage.progress(50).await;
    links.delay_all(Duration::ZERO);
}

/// The feeds' times are held at the end.
pub(super) async fn a_clock_jumps_and_the_log_s_time_never_goes_back(stage: &mut Stage) {
    let leader = stage.cell.leader().await;
    for seconds in JUMPS {
        stage.cell.say(&format!("the clock of server {leader}, which leads, is {seconds} s off"));
        stage.cell.machine(leader).move_clock(seconds);
        stage.work(Duration::from_millis(700)).await;
        stage.progress(30).await;
    }
    // The next leader's clock is behind what the former one's was.
    stage.cell.machine(leader).move_clock(600);
    stage.progress(30).await;
    stage.cell.kill(leader);
    let others = stage.cell.others(leader);
    stage.cell.leader_of(&others).await;
    stage.progress(50).await;
    stage.cell.machine(leader).move_clock(0);
    stage.cell.start_all().await;
    stage.progress(30).await;
}
