//! Processes that are killed, paused, and restarted.

use std::time::Duration;

use rand::seq::SliceRandom;

use crate::{
    cell::{LIMIT, Plan},
    stage::{Probe, Stage},
};

/// As much as a client of the library has for a call.
const DEADLINE: Duration = Duration::from_secs(30);
/// Answers that were on their way when servers were killed have arrived after this.
const ON_THE_WAY: Duration = Duration::from_millis(300);
/// Longer than anything under [`Plan::THREE`] takes to elect a leader.
const ASLEEP: Duration = Duration::from_secs(3);

/// Proves the stage itself on what needs no replication.
pub(super) async fn a_lone_server_is_killed_and_paused(stage: &mut Stage) {
    stage.cell.kill(1);
    stage.work(Duration::from_millis(500)).await;
    stage.cell.start_all().await;
    stage.progress(50).await;
    let probe = Probe::connect(1).await;
    stage.cell.pause(1);
    stage.work(Duration::from_millis(500)).await;
    let answered = probe.read(stage.history(), || stage.cell.wake(1)).await;
    assert!(answered > 0, "a server that woke answered no read");
    stage.progress(50).await;
}

pub(super) async fn the_leader_is_killed(stage: &mut Stage) {
    let leader = stage.cell.leader().await;
    stage.cell.kill(leader);
    let others = stage.cell.others(leader);
    let next = stage.cell.leader_of(&others).await;
    stage.cell.say(&format!("server {next} leads"));
    stage.progress(100).await;
    stage.cell.start_all().await;
    stage.work(Duration::from_secs(1)).await;
}

pub(super) async fn a_follower_is_killed(stage: &mut Stage) {
    let follower = stage.cell.follower().await;
    stage.cell.kill(follower);
    stage.progress(200).await;
    stage.cell.start_all().await;
    stage.work(Duration::from_secs(1)).await;
}

pub(super) async fn two_are_killed_and_nothing_is_acknowledged_until_one_is_back(stage: &mut Stage) {
    let mut servers = stage.cell.servers();
    servers.shuffle(&mut stage.random);
    stage.cell.kill(servers[0]);
    stage.cell.kill(servers[1]);
    tokio::time::sleep(ON_THE_WAY).await;
    let from = stage.history().now();
    stage.work(Duration::from_secs(3)).await;
    let acknowledged = stage.history().acknowledged(from, stage.history().now());
    assert_eq!(acknowledged, 0, "changes acknowledged by one server of {}", Plan::THREE.servers);
    stage.cell.start(servers[0]);
    stage.progress(50).await;
    stage.cell.start_all().await;
    stage.progress(50).await;
}

pub(super) async fn the_leader_sleeps_past_an_election_and_tells_nothing_stale_when_it_wakes(stage: &mut Stage) {
    let leader = stage.cell.leader().await;
    let probe = Probe::connect(leader).await;
    stage.cell.pause(leader);
    let others = stage.cell.others(leader);
    let next = stage.cell.leader_of(&others).await;
    stage.cell.say(&format!("server {next} leads"));
    stage.work(ASLEEP).await;
    stage.progress(50).await;
    probe.read(stage.history(), || stage.cell.wake(leader)).await;
    stage.progress(50).await;
}

pub(super) async fn all_are_restarted_one_after_the_other_and_no_request_fails(stage: &mut Stage) {
    for server in stage.cell.servers() {
        stage.cell.stop(server).await;
        stage.cell.start_all().await;
        stage.progress(50).await;
    }
    let slowest = stage.history().slowest();
    assert!(slowest < DEADLINE.min(LIMIT), "a client that retries waited {slowest:?} for an answer");
}
