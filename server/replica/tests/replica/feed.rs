//! Readers of the feed, and the requests that are remembered.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::support::{deadline, open, options, put, put_once, row, stop};
use flotilla_replica::{Cursor, Feed, FeedError, Options, ProposeError, Replica, clock::Clock};
use futures::future::poll_fn;

const MINUTE: u64 = 60 * 1_000_000;

#[tokio::test]
async fn a_reader_that_stalls_and_resumes_gets_everything_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let small = || Options { changes_segment_bytes: 4096, ..options(directory.path()) };
    let replica = Replica::open(small()).await.expect("a replica");
    write(&replica, 0..40).await;
    let mut feed = replica.feed(Some(&cursor(&replica, 0))).expect("a feed");
    let mut seen = take(&mut feed, 25, 7).await;
    write(&replica, 40..300).await;
    seen.extend(take(&mut feed, 150, 11).await);
    let left_at = feed.cursor();
    drop(feed);
    stop(replica).await;
    // Now nothing is in memory: the rest comes from the files.
    let replica = Replica::open(small()).await.expect("a replica");
    write(&replica, 300..310).await;
    let mut feed = replica.feed(Some(&left_at)).expect("a feed");
    let rest = 310 - seen.len();
    seen.extend(take(&mut feed, rest, 13).await);
    assert_eq!(seen, (1..=310).collect::<Vec<_>>());
}

#[tokio::test]
async fn every_limit_and_every_start_gives_the_same_records() {
    let directory = tempfile::tempdir().expect("a directory");
    let small = || Options { changes_segment_bytes: 1024, ..options(directory.path()) };
    let replica = Replica::open(small()).await.expect("a replica");
    // Frames of many records, and of one.
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let replica = replica.clone();
            tokio::spawn(async move { write(&replica, writer * 5..writer * 5 + 5).await })
        })
        .collect();
    for writer in writers {
        writer.await.expect("a writer");
    }
    stop(replica).await;
    let replica = Replica::open(small()).await.expect("a replica");
    for start in 0..40 {
        for limit in [1, 2, 3, 7, 1000] {
            let mut feed = replica.feed(Some(&cursor(&replica, start))).expect("a feed");
            assert_eq!(take(&mut feed, 40 - start as usize, limit).await, (start + 1..=40).collect::<Vec<_>>());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_below_the_floor_is_told_the_floor() {
    let directory = tempfile::tempdir().expect("a directory");
    let small = Options {
        changes_segment_bytes: 2048,
        feed_retention_bytes: 8 * 1024,
        log_thread: false,
        ..options(directory.path())
    };
    let replica = Replica::open(small).await.expect("a replica");
    let mut early = replica.feed(Some(&cursor(&replica, 0))).expect("a feed");
    let limit = deadline();
    let mut number = 0;
    while replica.status().floor <= 1 {
        assert!(tokio::time::Instant::now() < limit, "the feed is trimmed");
        write(&replica, number..number + 20).await;
        number += 20;
        tokio::time::advance(Duration::from_millis(200)).await;
    }
    let floor = replica.status().floor;
    for behind in [early.next(10).await.err(), replica.feed(Some(&cursor(&replica, floor - 2))).err()] {
        match behind {
            Some(FeedError::BelowFloor { floor: told, wanted }) => {
                assert_eq!(told, floor);
                assert!(wanted < floor);
            }
            other => panic!("not told to start over: {other:?}"),
        }
    }
    let mut feed = replica.feed(Some(&cursor(&replica, floor - 1))).expect("a feed from its floor on");
    assert_eq!(feed.next(1).await.expect("a record")[0].revision, floor);
}

#[tokio::test]
async fn a_cursor_of_another_history_or_of_the_future_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(directory.path()).await;
    write(&replica, 0..3).await;
    let other = replica.feed(Some(&Cursor { history: "another".into(), revision: 1 })).err();
    assert!(
        matches!(&other, Some(FeedError::HistoryChanged { theirs, ours }) if theirs == "another" && **ours == *replica.history())
    );
    let future = replica.feed(Some(&cursor(&replica, 4))).err();
    assert!(matches!(future, Some(FeedError::InFuture { wanted: 4, last: 3 })), "{future:?}");
}

#[tokio::test]
async fn a_stalled_reader_delays_no_writer_and_two_readers_both_get_everything() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(directory.path()).await;
    let mut stalled = replica.feed(None).expect("a feed");
    let (mut one, mut other) = (replica.feed(None).expect("a feed"), replica.feed(None).expect("a feed"));
    let readers = tokio::spawn(async move { (take(&mut one, 500, 50).await, take(&mut other, 500, 3).await) });
    write(&replica, 0..500).await;
    let (one, other) = readers.await.expect("readers");
    assert_eq!(one, (1..=500).collect::<Vec<_>>());
    assert_eq!(other, one);
    assert_eq!(take(&mut stalled, 500, 100).await, one);
}

#[tokio::test(start_paused = true)]
async fn an_idle_reader_is_not_woken() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = Replica::open(Options { log_thread: false, ..options(directory.path()) }).await.expect("a replica");
    let mut feed = replica.feed(None).expect("a feed");
    let polls = Arc::new(AtomicU64::new(0));
    let counted = polls.clone();
    let reader = tokio::spawn(async move {
        let mut next = pin!(feed.next(10));
        let counting = poll_fn(|context| {
            counted.fetch_add(1, Ordering::Relaxed);
            next.as_mut().poll(context)
        });
        counting.await.map(|records| records.len())
    });
    for _ in 0..3600 {
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(polls.load(Ordering::Relaxed), 1, "in an hour in which nothing happened");
    write(&replica, 0..1).await;
    assert_eq!(reader.await.expect("a reader").expect("records"), 1);
    assert_eq!(polls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_request_id_counts_once_and_is_refused_for_another_body() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(directory.path()).await;
    let first = replica.propose(put_once("one", "a", "1"), deadline()).await.expect("a commit");
    assert!(!first.replayed);
    replica.propose(put("a", "2"), deadline()).await.expect("a commit");
    let again = replica.propose(put_once("one", "a", "1"), deadline()).await.expect("the first answer");
    assert_eq!((again.revision, again.time, &again.answer, again.replayed), (1, first.time, &first.answer, true));
    let reused = replica.propose(put_once("one", "a", "3"), deadline()).await;
    assert!(matches!(reused, Err(ProposeError::RequestIdReused)), "{reused:?}");
    assert_eq!(row(&replica, "a").as_deref(), Some("2"));
    assert_eq!(replica.status().revision, 2);
    stop(replica).await;
    let replica = open(directory.path()).await;
    let again = replica.propose(put_once("one", "a", "1"), deadline()).await.expect("the first answer");
    assert_eq!((again.revision, again.replayed), (1, true), "also after a restart");
}

#[tokio::test]
async fn retries_that_come_together_with_the_request_count_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(directory.path()).await;
    let writers: Vec<_> = (0..200)
        .map(|number| {
            let replica = replica.clone();
            tokio::spawn(
                async move { replica.propose(put_once(&format!("{}", number % 4), "a", "1"), deadline()).await },
            )
        })
        .collect();
    for writer in writers {
        writer.await.expect("a writer").expect("a commit");
    }
    assert_eq!(replica.status().revision, 4);
}

#[tokio::test]
async fn a_request_is_forgotten_after_ten_minutes_of_the_logs_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(SetClock(AtomicU64::new(1_000 * MINUTE)));
    let clocked = || Options { clock: clock.clone(), ..options(directory.path()) };
    let replica = Replica::open(clocked()).await.expect("a replica");
    replica.propose(put_once("one", "a", "1"), deadline()).await.expect("a commit");
    clock.0.store(1_010 * MINUTE, Ordering::Relaxed);
    replica.propose(put("b", "1"), deadline()).await.expect("a commit");
    assert!(replica.propose(put_once("one", "a", "1"), deadline()).await.expect("an answer").replayed);
    stop(replica).await;
    let replica = Replica::open(clocked()).await.expect("a replica");
    assert!(replica.propose(put_once("one", "a", "1"), deadline()).await.expect("an answer").replayed);
    clock.0.store(1_010 * MINUTE + 1, Ordering::Relaxed);
    replica.propose(put("b", "2"), deadline()).await.expect("a commit");
    let anew = replica.propose(put_once("one", "a", "1"), deadline()).await.expect("a commit");
    assert_eq!((anew.revision, anew.replayed), (4, false));
}

#[tokio::test]
async fn requests_are_remembered_when_rows_and_change_records_are_made_again_from_the_snapshot() {
    const REQUESTS: usize = 9_000;
    let directory = tempfile::tempdir().expect("a directory");
    let small = || Options {
        log_segment_bytes: 64 * 1024,
        changes_segment_bytes: 64 * 1024,
        snapshot_log_bytes: 1024 * 1024,
        ..options(directory.path())
    };
    let replica = Replica::open(small()).await.expect("a replica");
    write_once(&replica, 0..REQUESTS, false).await;
    let (limit, mut extra) = (deadline(), 0);
    while directory.path().join("log").join(format!("{:016x}.seg", 1)).exists() {
        assert!(tokio::time::Instant::now() < limit, "the log is purged");
        replica.propose(put("b", &extra.to_string()), deadline()).await.expect("a commit");
        extra += 1;
    }
    stop(replica).await;
    for derived in ["store", "changes"] {
        std::fs::remove_dir_all(directory.path().join(derived)).expect("removed");
    }
    // The first time from the snapshot, then from what was made of it.
    for _ in 0..3 {
        let replica = Replica::open(small()).await.expect("a replica");
        write_once(&replica, 0..REQUESTS, true).await;
        assert!(replica.check(deadline()).await.expect("a report").holds());
        stop(replica).await;
    }
}

/// Writes rows one after another.
async fn write(replica: &Replica, numbers: std::ops::Range<u64>) {
    for number in numbers {
        replica.propose(put(&format!("key-{}", number % 10), &"v".repeat(100)), deadline()).await.expect("a commit");
    }
}

/// Sends many requests at once; all are new, or all are retries.
async fn write_once(replica: &Replica, numbers: std::ops::Range<usize>, replayed: bool) {
    let writers: Vec<_> = numbers
        .collect::<Vec<_>>()
        .chunks(3000)
        .map(|numbers| {
            let (replica, numbers) = (replica.clone(), numbers.to_vec());
            tokio::spawn(async move {
                let writes =
                    numbers.iter().map(|number| replica.propose(put_once(&number.to_string(), "a", "1"), deadline()));
                futures::future::join_all(writes).await
            })
        })
        .collect();
    for writer in writers {
        for answer in writer.await.expect("a writer") {
            assert_eq!(answer.expect("a commit").replayed, replayed);
        }
    }
}

async fn take(feed: &mut Feed, count: usize, limit: usize) -> Vec<u64> {
    let mut revisions = Vec::new();
    while revisions.len() < count {
        let records = feed.next(limit.min(count - revisions.len())).await.expect("records");
        assert!(!records.is_empty() && records.len() <= limit);
        revisions.extend(records.iter().map(|record| record.revision));
    }
    revisions
}

fn cursor(replica: &Replica, revision: u64) -> Cursor {
    Cursor { history: replica.history().to_string(), revision }
}

struct SetClock(AtomicU64);

impl Clock for SetClock {
    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
