//! What a directory holds when it is opened again.

use std::fs;

use crate::support::{deadline, open, options, put, row, stop};
use flotilla_replica::Replica;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_row_is_there_after_a_clean_stop() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(directory.path()).await;
    let first = replica.propose(put("a", "1"), deadline()).await.expect("a commit");
    assert_eq!((first.revision, first.replayed), (1, false));
    stop(replica).await;
    let replica = open(directory.path()).await;
    assert_eq!(row(&replica, "a").as_deref(), Some("1"));
    let second = replica.propose(put("a", "2"), deadline()).await.expect("a commit");
    assert_eq!(second.revision, 2);
    stop(replica).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_store_is_made_again_from_the_log() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(directory.path()).await;
    for number in 0..300 {
        replica
            .propose(put(&format!("key-{}", number % 100), &number.to_string()), deadline())
            .await
            .expect("a commit");
    }
    let status = replica.status();
    stop(replica).await;
    fs::remove_dir_all(directory.path().join("store")).expect("removed");
    let replica = open(directory.path()).await;
    assert_eq!(row(&replica, "key-7").as_deref(), Some("207"));
    assert_eq!(replica.status().revision, status.revision);
    assert!(replica.check(deadline()).await.expect("a report").holds());
    stop(replica).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_change_records_are_made_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(directory.path()).await;
    for number in 0..50 {
        replica.propose(put("a", &number.to_string()), deadline()).await.expect("a commit");
    }
    stop(replica).await;
    fs::remove_dir_all(directory.path().join("changes")).expect("removed");
    let replica = open(directory.path()).await;
    let cursor = flotilla_replica::Cursor { history: replica.history().to_string(), revision: 0 };
    let mut feed = replica.feed(Some(&cursor)).expect("a feed");
    let records = feed.next(1000).await.expect("records");
    assert_eq!(records.iter().map(|record| record.revision).collect::<Vec<_>>(), (1..=50).collect::<Vec<_>>());
    stop(replica).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_snapshot_the_log_is_purged_and_everything_can_still_be_rebuilt() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut small = options(directory.path());
    small.snapshot_log_bytes = 64 * 1024;
    let replica = Replica::open(small).await.expect("a replica");
    let mut number = 0;
    let limit = deadline();
    while replica.metrics().snapshots.get() == 0 {
        assert!(tokio::time::Instant::now() < limit, "no snapshot was taken");
        replica.propose(put(&format!("key-{}", number % 50), &"x".repeat(500)), deadline()).await.expect("a commit");
        number += 1;
    }
    let last = replica.propose(put("last", "one"), deadline()).await.expect("a commit");
    stop(replica).await;
    for derived in ["store", "changes"] {
        fs::remove_dir_all(directory.path().join(derived)).expect("removed");
    }
    let replica = open(directory.path()).await;
    assert_eq!(replica.status().revision, last.revision);
    assert_eq!(row(&replica, "last").as_deref(), Some("one"));
    assert!(replica.check(deadline()).await.expect("a report").holds());
    stop(replica).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_is_told_who_has_the_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(directory.path()).await;
    let refused = Replica::open(options(directory.path())).await.err().expect("a refusal").to_string();
    assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
    stop(replica).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_another_cell_is_refused_and_not_changed() {
    let directory = tempfile::tempdir().expect("a directory");
    stop(open(directory.path()).await).await;
    let mut other = options(directory.path());
    other.cell = "other".into();
    let refused = Replica::open(other).await.err().expect("a refusal").to_string();
    assert!(refused.contains("cell \"flotilla\"") && refused.contains("\"other\""), "{refused}");
    stop(open(directory.path()).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_log_is_refused_instead_of_starting_empty() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(directory.path()).await;
    replica.propose(put("a", "1"), deadline()).await.expect("a commit");
    stop(replica).await;
    fs::remove_dir_all(directory.path().join("log")).expect("removed");
    let refused = Replica::open(options(directory.path())).await.err().expect("a refusal").to_string();
    assert!(refused.contains("ahead of it"), "{refused}");
}
