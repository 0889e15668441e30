//! Disks that are full, slow, lost, or far behind.

use std::time::Duration;

use flotilla_proto::records::v1::PutRecordRequest;
use prost_types::{Struct, Value, value::Kind};

use crate::{
    cell::{LIMIT, timed},
    clients::{passes, records},
    stage::Stage,
};

/// Of a record that fills the log.
const FILLING: usize = 512 << 10;
const FILLINGS: usize = 24;

pub(super) async fn one_disk_is_full(stage: &mut Stage) {
    let filling = stage.cell.fill_disk(2);
    stage.work(Duration::from_secs(2)).await;
    stage.cell.say("the disk has room again");
    drop(filling);
    stage.progress(50).await;
    // The same where everything is written first.
    stage.cell.transfer(2).await;
    let filling = stage.cell.fill_disk(2);
    stage.work(Duration::from_secs(2)).await;
    stage.cell.say("the disk has room again");
    drop(filling);
    stage.progress(50).await;
}

pub(super) async fn the_leader_s_disk_is_slow(stage: &mut Stage) {
    let leader = stage.cell.leader().await;
    let term = stage.cell.status(leader).await.expect("the leader's status").term;
    stage.cell.say(&format!("each sync of server {leader}, which leads, takes 300 ms"));
    stage.cell.machine(leader).slow_disk(Duration::from_millis(300));
    stage.work(Duration::from_secs(4)).await;
    let status = stage.cell.status(leader).await.expect("the leader's status");
    assert_eq!((status.term, status.is_leader), (term, true), "a slow disk cost server {leader} its leadership");
    stage.progress(20).await;
    stage.cell.machine(leader).slow_disk(Duration::ZERO);
    stage.progress(50).await;
}

pub(super) async fn a_wiped_server_is_a_new_one_and_votes_again(stage: &mut Stage) {
    let wiped = stage.cell.follower().await;
    let before = stage.cell.status(wiped).await.expect("its status");
    stage.cell.kill(wiped);
    stage.cell.wipe(wiped);
    stage.progress(50).await;
    stage.cell.start_all().await;
    stage.progress(50).await;
    let after = stage.cell.voter(wiped).await;
    assert_ne!(before.incarnation, after.incarnation, "a server without its data is the one it was");
    // Its vote counts: without the other follower, it and the leader are the majority.
    let leader = stage.cell.leader().await;
    for other in stage.cell.others(wiped).into_iter().filter(|other| *other != leader) {
        stage.cell.kill(other);
    }
    stage.progress(50).await;
    stage.cell.start_all().await;
    stage.progress(50).await;
}

pub(super) async fn a_server_that_was_away_for_long_catches_up_by_snapshot(stage: &mut Stage) {
    let away = stage.cell.follower().await;
    stage.cell.kill(away);
    let leader = stage.cell.leader().await;
    for number in 0..FILLINGS {
        fill(leader, number).await;
    }
    stage.progress(50).await;
    stage.cell.start(away);
    stage.progress(100).await;
    stage.cell.all_ready().await;
    stage.progress(50).await;
}

/// Writes more of one record than a log of `snapshot_log` keeps.
async fn fill(server: u64, number: usize) {
    let text = Value { kind: Some(Kind::StringValue("x".repeat(FILLING))) };
    let document = Some(Struct { fields: [("filling".to_owned(), text)].into() });
    let (table, id) = ("filling".to_owned(), (number % 4).to_string());
    let request_id = ulid::Ulid::new().to_string();
    let put = PutRecordRequest { table, id, document, request_id, ..PutRecordRequest::default() };
    let limit = tokio::time::Instant::now() + LIMIT;
    while let Err(status) = records(server).put_record(timed(put.clone(), LIMIT / 8)).await {
        passes(&status);
        assert!(tokio::time::Instant::now() < limit, "no filling within {LIMIT:?}: {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
