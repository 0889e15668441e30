//! Links between servers that are cut, in both directions or one, slow, or lossy.

use std::time::Duration;

use rand::Rng;

use crate::stage::Stage;

/// Long enough for several elections.
const CUT: Duration = Duration::from_secs(4);

pub(super) async fn the_leader_is_cut_off_alone(stage: &mut Stage) {
    let leader = stage.cell.leader().await;
    stage.cell.say(&format!("server {leader} is cut off"));
    stage.cell.network.isolate(leader);
    let others = stage.cell.others(leader);
    let next = stage.cell.leader_of(&others).await;
    stage.cell.say(&format!("server {next} leads"));
    stage.progress(100).await;
    stage.work(CUT / 2).await;
    stage.cell.heal().await;
    stage.progress(50).await;
}

pub(super) async fn a_follower_is_cut_off_and_deposes_nobody_when_it_is_back(stage: &mut Stage) {
    let leader = stage.cell.leader().await;
    let before = stage.cell.status(leader).await.expect("the leader's status");
    let follower = stage.cell.others(leader)[0];
    stage.cell.say(&format!("server {follower} is cut off"));
    stage.cell.network.isolate(follower);
    stage.progress(100).await;
    stage.work(CUT).await;
    stage.cell.heal().await;
    stage.work(Duration::from_secs(1)).await;
    let after = stage.cell.status(leader).await.expect("the leader's status");
    assert_eq!((before.term, true), (after.term, after.is_leader), "a follower that came back deposed the leader");
}

pub(super) async fn two_can_only_talk_through_the_third(stage: &mut Stage) {
    let leader = stage.cell.leader().await;
    let others = stage.cell.others(leader);
    stage.cell.say(&format!("servers {leader} and {} are cut from each other", others[0]));
    stage.cell.network.cut(leader, others[0]);
    stage.work(CUT).await;
    // Whoever leads now, there is a majority, and every server but at most one reaches its leader.
    stage.progress(50).await;
    stage.cell.heal().await;
    stage.progress(50).await;
}

pub(super) async fn the_leader_hears_the_others_and_is_not_heard(stage: &mut Stage) {
    let leader = stage.cell.leader().await;
    stage.cell.say(&format!("server {leader} isn't heard any more"));
    stage.cell.network.mute(leader);
    one_way(stage, leader).await;
}

pub(super) async fn the_leader_is_heard_and_hears_nobody(stage: &mut Stage) {
    let leader = stage.cell.leader().await;
    stage.cell.say(&format!("server {leader} hears nobody any more"));
    stage.cell.network.deafen(leader);
    one_way(stage, leader).await;
}

async fn one_way(stage: &mut Stage, leader: u64) {
    let others = stage.cell.others(leader);
    let next = stage.cell.leader_of(&others).await;
    stage.cell.say(&format!("server {next} leads"));
    stage.progress(100).await;
    stage.cell.heal().await;
    stage.progress(50).await;
}

pub(super) async fn one_server_is_200_ms_away_and_loses_packets(stage: &mut Stage) {
    let far = stage.cell.servers()[stage.random.random_range(0..3)];
    stage.cell.say(&format!("server {far} is 200 ms away and loses one packet of fifty"));
    let links = stage.links.clone().expect("a plan with delays");
    links.delay_server(far, Duration::from_millis(200));
    stage.cell.network.lose(far, 2);
    stage.progress(100).await;
    stage.work(CUT).await;
    links.delay_server(far, Duration::ZERO);
    stage.cell.heal().await;
    stage.progress(50).await;
}
