//! openraft's own tests of a log, and what they leave out: reopening.

use std::path::Path;

use openraft::{
    StorageError, Vote as RaftVote,
    entry::RaftEntry,
    storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt},
    testing::log::{StoreBuilder, Suite},
};
use tokio::sync::oneshot;

use super::{LogStorage, recover};
use crate::{
    Options,
    machine::Machine,
    open,
    raft::{Entry, LeaderId, LogId, ServerId, TypeConfig, Vote},
};

type LogSuite = Suite<TypeConfig, LogStorage, Machine, Builder, tempfile::TempDir>;

struct Builder;

/// The suite counts servers with plain numbers.
impl From<u64> for ServerId {
    fn from(server: u64) -> Self {
        Self { server, incarnation: 1 }
    }
}

impl StoreBuilder<TypeConfig, LogStorage, Machine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStorage, Machine), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().expect("a directory");
        let opened = open::open(&small(directory.path())).expect("an empty directory opens");
        tokio::spawn(opened.writer.run());
        let machine = Machine::new(opened.derived, opened.snapshots, opened.log, true, oneshot::channel().0);
        Ok((directory, opened.log_storage, machine))
    }
}

macro_rules! suite {
    ($($name:ident)*) => {
        $(#[tokio::test]
        async fn $name() {
            let (_directory, log, machine) = Builder.build().await.expect("a log and a machine");
            LogSuite::$name(log, machine).await.expect("openraft is content");
        })*
    };
}

// Left out are tests in which the state machine is ahead of the log: a
// directory like that is not opened.
suite! {
    last_membership_in_log_initial last_membership_in_log last_membership_in_log_multi_step get_membership_initial
    get_membership_from_log_and_empty_sm get_membership_from_empty_log_and_sm get_membership_from_log_le_sm_last_applied
    get_membership_from_log_gt_sm_last_applied_1 get_membership_from_log_gt_sm_last_applied_2
    get_initial_state_without_init get_initial_state_with_state get_initial_state_last_log_gt_sm
    get_initial_state_inverted_log_order get_initial_state_conflict_at_same_index get_initial_state_re_apply_committed
    save_vote get_log_entries limited_get_log_entries leader_bounded_stream entries_stream try_get_log_entry
    log_reader_reads_new_entries initial_logs get_log_state get_log_id last_id_in_log last_applied_state
    purge_logs_upto_0 purge_logs_upto_5 purge_logs_upto_20 delete_logs_after_11 delete_logs_after_5
    delete_logs_after_0 delete_logs_after_none append_to_log apply_single apply_multiple
}

#[tokio::test]
async fn a_cut_off_suffix_stays_cut_off_and_the_prefix_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut log = open_log(directory.path());
    log.blocking_append((0..=10).map(|index| blank(1, index))).await.expect("appended");
    log.truncate_after(Some(log_id(1, 6))).await.expect("cut off");
    assert_eq!(indexes(&mut log).await, (0..=6).collect::<Vec<_>>());
    log.blocking_append((7..=8).map(|index| blank(2, index))).await.expect("appended");
    for _ in 0..2 {
        log = open_log(directory.path());
        assert_eq!(indexes(&mut log).await, (0..=8).collect::<Vec<_>>());
        let entries = log.try_get_log_entries(6..8).await.expect("entries");
        assert_eq!(entries.iter().map(Entry::log_id).collect::<Vec<_>>(), [log_id(1, 6), log_id(2, 7)]);
        let state = log.get_log_state().await.expect("a state");
        assert_eq!(state.last_log_id, Some(log_id(2, 8)));
    }
}

#[tokio::test]
async fn entries_that_were_purged_over_many_segments_are_gone_after_reopening_and_nothing_else_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut log = open_log(directory.path());
    let mut first = 1;
    for round in 1..=6 {
        let last = round * 200;
        for index in last - 199..=last {
            log.blocking_append([blank(1, index)]).await.expect("appended");
        }
        for purged in [last - 120, last - 30] {
            log.purge(log_id(1, purged)).await.expect("purged");
            first = purged + 1;
        }
        log = open_log(directory.path());
        assert_eq!(indexes(&mut log).await, (first..=last).collect::<Vec<_>>());
        assert_eq!(log.get_log_state().await.expect("a state").last_purged_log_id, Some(log_id(1, first - 1)));
    }
    log.purge(log_id(1, 1200)).await.expect("purged");
    log = open_log(directory.path());
    let state = log.get_log_state().await.expect("a state");
    assert_eq!((state.last_log_id, state.last_purged_log_id), (Some(log_id(1, 1200)), Some(log_id(1, 1200))));
    let files = std::fs::read_dir(directory.path().join("log")).expect("a log").count();
    assert!(files <= 3, "{files} files are left of a log that is empty");
}

#[tokio::test]
async fn a_vote_survives_reopening_and_the_purge_of_the_segment_that_it_was_written_to() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut log = open_log(directory.path());
    let vote: Vote = RaftVote::new_committed(7, ServerId::from(3));
    log.save_vote(&vote).await.expect("saved");
    log = open_log(directory.path());
    assert_eq!(log.read_vote().await.expect("a vote"), Some(vote));
    for index in 1..=300 {
        log.blocking_append([blank(7, index)]).await.expect("appended");
    }
    log.purge(log_id(7, 299)).await.expect("purged");
    log = open_log(directory.path());
    assert_eq!(log.read_vote().await.expect("a vote"), Some(vote));
    assert_eq!(indexes(&mut log).await, [300]);
}

#[tokio::test]
async fn a_vote_survives_a_kill_between_the_header_of_a_segment_and_its_first_group() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut log = open_log(directory.path());
    let vote: Vote = RaftVote::new_committed(7, ServerId::from(3));
    log.save_vote(&vote).await.expect("saved");
    for index in 0..=150 {
        log.blocking_append([blank(7, index)]).await.expect("appended");
    }
    drop(log);
    // The newest segment is as it is when only its header was written.
    let files =
        std::fs::read_dir(directory.path().join("log")).expect("a log").map(|file| file.expect("a file").path());
    let mut segments: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "seg")).collect();
    segments.sort();
    let newest = segments.pop().expect("a segment");
    let mut bytes = std::fs::read(&newest).expect("a segment");
    bytes[crate::segment::SEGMENT_HEADER as usize..].fill(0);
    std::fs::write(&newest, bytes).expect("written");
    let mut log = open_log(directory.path());
    let last = *indexes(&mut log).await.last().expect("entries");
    for index in last + 1..=last + 10 {
        log.blocking_append([blank(7, index)]).await.expect("appended");
    }
    log.purge(log_id(7, last + 5)).await.expect("purged");
    assert!(!segments[0].exists(), "the older segments are gone");
    let mut log = open_log(directory.path());
    assert_eq!(log.read_vote().await.expect("a vote"), Some(vote));
}

fn small(directory: &Path) -> Options {
    Options { log_segment_bytes: 4096, log_thread: false, ..Options::new(directory) }
}

fn open_log(directory: &Path) -> LogStorage {
    let options = small(directory);
    let recovered = recover(&options.disk, &directory.join("log")).expect("a log");
    let (log, writer) =
        LogStorage::new(recovered.log, options.disk.clone(), Default::default(), recovered.tail, &options);
    tokio::spawn(writer.run());
    log
}

async fn indexes(log: &mut LogStorage) -> Vec<u64> {
    log.try_get_log_entries(..).await.expect("entries").iter().map(Entry::index).collect()
}

fn blank(term: u64, index: u64) -> Entry {
    Entry::new_blank(log_id(term, index))
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: ServerId::from(1) }, index }
}
