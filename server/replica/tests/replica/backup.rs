//! Backups and what is restored from them: everything of one moment, under a new history; and what is
//! refused before anything is made.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::support::{SPACE, TABLE, deadline, faulty_disk::FaultyDisk, open, options, put, put_once, row, stop};
use flotilla_proto::storage::v1::{SnapshotHeader, SnapshotRecord, snapshot_record::Kind};
use flotilla_replica::{
    BackupError, BackupInfo, Cursor, FeedError, OpenError, Options, Replica, RestoreError, RestoreOptions, Restored,
    Unreadable,
    disk::{Disk, DiskFile, SystemDisk},
    restore,
};
use flotilla_store::TransactionBuilder;
use prost::Message;
use tempfile::TempDir;

/// A file with a backup, and what it is of.
struct Backup {
    directory: TempDir,
    info: BackupInfo,
}

impl Backup {
    async fn of(replica: &Replica) -> Self {
        let (info, bytes) = take(replica).await.expect("a backup");
        let directory = TempDir::new().expect("a directory");
        fs::write(directory.path().join("b.flotilla"), bytes).expect("written");
        Self { directory, info }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("b.flotilla")
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.file()).expect("a backup")
    }

    /// A file beside it with other bytes.
    fn altered(&self, bytes: &[u8]) -> PathBuf {
        let file = self.directory.path().join("altered.flotilla");
        fs::write(&file, bytes).expect("written");
        file
    }

    fn fresh(&self) -> PathBuf {
        self.directory.path().join("deep/fresh")
    }
}

async fn take(replica: &Replica) -> Result<(BackupInfo, Vec<u8>), BackupError> {
    let mut backup = replica.begin_backup()?.write().await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = backup.next_chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    let info = backup.info().clone();
    assert_eq!((info.length, info.crc32c), (bytes.len() as u64, crc32c::crc32c(&bytes)));
    Ok((info, bytes))
}

fn restored(file: &Path, data_dir: &Path) -> Result<Restored, RestoreError> {
    restore(&RestoreOptions::new(file, data_dir), |done, total| assert!(done <= total))
}

fn append(list: &str, value: &str) -> flotilla_store::Transaction {
    TransactionBuilder::new(SPACE).append("lists", list.to_owned(), value.to_owned()).build()
}

async fn propose(replica: &Replica, transaction: flotilla_store::Transaction) -> flotilla_replica::Committed {
    replica.propose(transaction, deadline()).await.expect("a commit")
}

/// A replica with rows, lists and remembered requests.
async fn filled(directory: &Path) -> Replica {
    let replica = open(directory).await;
    for number in 0..40 {
        propose(&replica, put_once(&format!("request {number}"), &format!("row {number}"), &"x".repeat(4_000))).await;
        propose(&replica, append("harbour", "a boat")).await;
    }
    replica
}

#[tokio::test]
async fn a_restored_cell_has_every_row_goes_on_with_its_lists_and_has_a_history_of_its_own() {
    let directory = TempDir::new().expect("a directory");
    let replica = filled(directory.path()).await;
    let backup = Backup::of(&replica).await;
    // What comes after it is not in it.
    propose(&replica, put("later", "lost")).await;
    let done = restored(&backup.file(), &backup.fresh()).expect("restored");
    assert_eq!((done.cell.as_str(), done.former_cell.as_str()), ("flotilla", "flotilla"));
    assert_eq!((done.rows, done.backup_revision, done.requests), (backup.info.rows, 80, 40));
    assert_ne!(done.history, done.former_history);
    assert_eq!(done.former_history, *replica.history());
    assert!(done.revision > replica.status().revision + 1_000_000, "no etag of one cell fits the other");

    for life in 1..=2 {
        let again = open(&backup.fresh()).await;
        assert_eq!(*again.history(), *done.history);
        for number in 0..40 {
            let key = format!("row {number}").into_bytes();
            let (kept, made) = (replica.store().get(SPACE, TABLE, &key), again.store().get(SPACE, TABLE, &key));
            assert_eq!(kept.expect("a read").expect("a row"), made.expect("a read").expect("a row"));
        }
        assert_eq!(row(&again, "later"), None);
        assert_eq!(propose(&again, append("harbour", "a new boat")).await.results, [40 + life]);
        assert_eq!(again.status().revision, done.revision + life);
        assert!(again.check(deadline()).await.expect("a report").holds());
        assert!(!backup.fresh().join("restore.partial").exists());
        stop(again).await;
    }
    let names = fs::read_dir(backup.fresh()).expect("names").filter_map(Result::ok);
    let aside: Vec<_> = names.filter(|name| name.file_name().to_string_lossy().contains("aside")).collect();
    assert!(aside.is_empty(), "there was no store to set aside: {aside:?}");
    stop(replica).await;
}

#[tokio::test]
async fn a_retry_of_what_the_backup_has_counts_once_after_a_restore() {
    let directory = TempDir::new().expect("a directory");
    let replica = filled(directory.path()).await;
    let backup = Backup::of(&replica).await;
    propose(&replica, put_once("after", "after", "the backup")).await;
    stop(replica).await;
    restored(&backup.file(), &backup.fresh()).expect("restored");
    for _ in 0..2 {
        let again = open(&backup.fresh()).await;
        let retry = put_once("request 7", "row 7", &"x".repeat(4_000));
        let answer = propose(&again, retry).await;
        assert!(answer.replayed);
        assert_eq!((answer.revision, &answer.answer[..]), (15, &b"answer to request 7"[..]));
        stop(again).await;
    }
    let again = open(&backup.fresh()).await;
    assert!(!propose(&again, put_once("after", "after", "the backup")).await.replayed, "it was lost, so it counts");
    stop(again).await;
}

#[tokio::test]
async fn a_cursor_of_the_former_history_is_refused_and_one_of_the_new_goes_on() {
    let directory = TempDir::new().expect("a directory");
    let replica = filled(directory.path()).await;
    let cursor = replica.feed(None).expect("a feed").cursor();
    let backup = Backup::of(&replica).await;
    stop(replica).await;
    let done = restored(&backup.file(), &backup.fresh()).expect("restored");
    let again = open(&backup.fresh()).await;
    assert!(matches!(again.feed(Some(&cursor)), Err(FeedError::HistoryChanged { .. })));
    let mut feed = again.feed(None).expect("a feed");
    assert_eq!(feed.cursor(), Cursor { history: done.history.clone(), revision: done.revision });
    let before = Cursor { history: done.history, revision: 10 };
    assert!(matches!(again.feed(Some(&before)), Err(FeedError::BelowFloor { .. })), "the feed starts empty");
    propose(&again, put("new", "row")).await;
    assert_eq!(feed.next(10).await.expect("a change")[0].revision, done.revision + 1);
    drop(feed);
    stop(again).await;
}

#[tokio::test]
async fn an_empty_cell_can_be_saved_and_restored_under_another_name() {
    let directory = TempDir::new().expect("a directory");
    let replica = open(directory.path()).await;
    let backup = Backup::of(&replica).await;
    stop(replica).await;
    let options = RestoreOptions {
        cell: Some("harbour".into()),
        server: 3,
        ..RestoreOptions::new(backup.file(), backup.fresh())
    };
    restore(&options, |_, _| {}).expect("restored");
    let error = Replica::open(crate::support::options(&backup.fresh())).await.map(drop).expect_err("another cell");
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    let harbour = Options { cell: "harbour".into(), server: 3, ..crate::support::options(&backup.fresh()) };
    let again = Replica::open(harbour).await.expect("a replica");
    propose(&again, put("a", "row")).await;
    stop(again).await;
}

#[tokio::test]
async fn a_restored_directory_survives_a_snapshot_and_loses_its_seed_of_a_log() {
    let directory = TempDir::new().expect("a directory");
    let replica = filled(directory.path()).await;
    let backup = Backup::of(&replica).await;
    stop(replica).await;
    restored(&backup.file(), &backup.fresh()).expect("restored");
    let small =
        || Options { snapshot_log_bytes: 1, log_segment_bytes: 64 * 1024, ..crate::support::options(&backup.fresh()) };
    let again = Replica::open(small()).await.expect("a replica");
    for number in 0..100 {
        propose(&again, put(&format!("new {number}"), &"y".repeat(4_000))).await;
    }
    let seed = backup.fresh().join("log/0000000000000001.seg");
    let end = deadline();
    while again.metrics().snapshots.get() == 0 || seed.exists() {
        assert!(tokio::time::Instant::now() < end, "no snapshot");
        propose(&again, put("another", &"z".repeat(8_000))).await;
    }
    stop(again).await;
    let again = Replica::open(small()).await.expect("a replica");
    assert!(row(&again, "row 39").is_some() && row(&again, "new 99").is_some());
    stop(again).await;
}

fn why(error: RestoreError) -> Unreadable {
    match error {
        RestoreError::Backup { source, .. } => source,
        error => panic!("another error: {error}"),
    }
}

#[tokio::test]
async fn a_cut_backup_is_refused_wherever_it_is_cut_and_nothing_is_made() {
    let directory = TempDir::new().expect("a directory");
    let replica = filled(directory.path()).await;
    let backup = Backup::of(&replica).await;
    stop(replica).await;
    let bytes = backup.bytes();
    let records = record_starts(&bytes);
    assert!(records.len() >= 4, "a header, rows, requests, a trailer");
    let mut lengths: Vec<usize> = records.iter().flat_map(|start| [*start, start + 4, start + 8, start + 9]).collect();
    lengths.extend([0, 1, 7, bytes.len() - 1, bytes.len() / 2]);
    for length in lengths.into_iter().filter(|length| *length < bytes.len()) {
        let error = restored(&backup.altered(&bytes[..length]), &backup.fresh()).expect_err("a cut file");
        match why(error) {
            Unreadable::Cut { .. } if length >= 8 => {}
            Unreadable::NotASnapshot if length < 8 => {}
            error => panic!("cut after {length} bytes: {error}"),
        }
        assert!(!backup.fresh().exists());
    }
    let longer = [&bytes[..], b"x"].concat();
    let error = why(restored(&backup.altered(&longer), &backup.fresh()).expect_err("a longer file"));
    assert!(error.to_string().contains("goes on after its end"), "{error}");
}

#[tokio::test]
async fn a_backup_with_one_byte_altered_is_refused_wherever_it_is() {
    let directory = TempDir::new().expect("a directory");
    let replica = filled(directory.path()).await;
    let backup = Backup::of(&replica).await;
    stop(replica).await;
    let bytes = backup.bytes();
    // Every byte of what frames the records, and some of what is in them.
    let framing = record_starts(&bytes).into_iter().flat_map(|start| start..start + 12);
    let places: Vec<usize> = (0..8).chain(framing).chain((0..bytes.len()).step_by(499)).collect();
    for place in places.into_iter().filter(|place| *place < bytes.len()) {
        let mut altered = bytes.clone();
        altered[place] ^= 1 << (place % 8);
        let error = restored(&backup.altered(&altered), &backup.fresh()).expect_err("an altered file");
        assert!(!matches!(why(error), Unreadable::Io(_)), "byte {place}");
        assert!(!backup.fresh().exists());
    }
}

#[tokio::test]
async fn records_that_are_valid_one_by_one_must_fit_each_other() {
    let directory = TempDir::new().expect("a directory");
    let replica = open(directory.path()).await;
    for number in 0..300 {
        propose(&replica, put(&format!("row {number:03}"), &"x".repeat(4_000))).await;
    }
    let backup = Backup::of(&replica).await;
    stop(replica).await;
    let bytes = backup.bytes();
    let starts = record_starts(&bytes);
    let records: Vec<&[u8]> = starts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
    let last = &bytes[starts[starts.len() - 1]..];
    assert!(records.len() >= 4, "a header and several records of rows");
    let file = |middle: &[&[u8]]| [&bytes[..8], records[0], &middle.concat(), last].concat();
    let rows = &records[1..];
    let missing = file(&rows[1..]);
    let swapped = file(&[&[rows[1], rows[0]], &rows[2..]].concat());
    let twice = file(&[&[rows[0], rows[0]], &rows[1..]].concat());
    for (altered, expected) in [(missing, "as many records"), (swapped, "in the order"), (twice, "in the order")] {
        let error = why(restored(&backup.altered(&altered), &backup.fresh()).expect_err("an altered file"));
        assert!(error.to_string().contains(expected), "{error}");
    }
    restored(&backup.altered(&file(rows)), &backup.fresh()).expect("the same file again");
}

/// Where the records of a backup start.
fn record_starts(bytes: &[u8]) -> Vec<usize> {
    let (mut starts, mut at) = (Vec::new(), 8);
    while at < bytes.len() {
        starts.push(at);
        let length = u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        at += 8 + length as usize;
    }
    starts
}

#[test]
fn a_backup_of_a_newer_format_and_a_file_of_another_kind_are_told_apart() {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("b.flotilla");
    let header = SnapshotHeader { format: 2, ..SnapshotHeader::default() };
    let record = SnapshotRecord { kind: Some(Kind::Header(header)) }.encode_to_vec();
    let (length, checksum) = ((record.len() as u32).to_le_bytes(), crc32c::crc32c(&record).to_le_bytes());
    fs::write(&file, [b"FLOTSNAP", &length[..], &checksum, &record].concat()).expect("written");
    let fresh = directory.path().join("fresh");
    let error = why(restored(&file, &fresh).expect_err("a newer file"));
    assert!(matches!(error, Unreadable::NewerFormat { found: 2, known: 1 }), "{error}");
    assert!(error.to_string().contains("use a newer flotilla"), "{error}");

    fs::write(&file, b"PK\x03\x04 is a zip file").expect("written");
    assert!(matches!(why(restored(&file, &fresh).expect_err("a zip file")), Unreadable::NotASnapshot));
    assert!(!fresh.exists());
    let missing = directory.path().join("nowhere");
    assert!(matches!(why(restored(&missing, &fresh).expect_err("no file")), Unreadable::Io(_)));
}

#[tokio::test]
async fn a_directory_that_holds_anything_is_left_alone() {
    let directory = TempDir::new().expect("a directory");
    let replica = filled(directory.path()).await;
    let backup = Backup::of(&replica).await;
    stop(replica).await;
    let error = restored(&backup.file(), directory.path()).expect_err("a server's data");
    assert!(matches!(error, RestoreError::NotEmpty { .. }), "{error}");
    let error = restored(&backup.file(), backup.directory.path()).expect_err("other files");
    assert!(error.to_string().contains("b.flotilla"), "{error}");
    stop(open(directory.path()).await).await;

    // What a new file system has in it is nothing.
    fs::create_dir_all(backup.fresh().join("lost+found")).expect("a directory");
    restored(&backup.file(), &backup.fresh()).expect("restored");
    stop(open(&backup.fresh()).await).await;
    let error = restored(&backup.file(), &backup.fresh()).expect_err("restored already");
    assert!(matches!(error, RestoreError::NotEmpty { .. }), "{error}");
}

/// The system's disk until so many operations were done.
struct Interrupted {
    left: AtomicU64,
}

impl Interrupted {
    fn step(&self) -> io::Result<()> {
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) {
            Ok(_) => Ok(()),
            Err(_) => Err(io::ErrorKind::Interrupted.into()),
        }
    }
}

impl Disk for Interrupted {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.step().and_then(|()| SystemDisk.create_dir(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        SystemDisk.list(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        SystemDisk.open(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.step().and_then(|()| SystemDisk.create(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step().and_then(|()| SystemDisk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step().and_then(|()| SystemDisk.remove(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step().and_then(|()| SystemDisk.sync_dir(path))
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        SystemDisk.free_bytes(path)
    }
}

#[tokio::test]
async fn an_interrupted_restore_is_refused_by_a_server_and_begun_anew_by_another_restore() {
    let directory = TempDir::new().expect("a directory");
    let replica = filled(directory.path()).await;
    let backup = Backup::of(&replica).await;
    stop(replica).await;
    let mut half = 0;
    for steps in 0.. {
        let _ = fs::remove_dir_all(backup.fresh());
        let disk = Arc::new(Interrupted { left: steps.into() });
        let options = RestoreOptions { disk, ..RestoreOptions::new(backup.file(), backup.fresh()) };
        if restore(&options, |_, _| {}).is_ok() {
            break;
        }
        let made = backup.fresh().join("identity.json").exists();
        let begun = backup.fresh().join("restore.partial").exists();
        if begun && !made {
            half += 1;
            let error =
                Replica::open(crate::support::options(&backup.fresh())).await.map(drop).expect_err("half a restore");
            assert!(matches!(error, OpenError::HalfRestored { .. }), "after {steps} steps: {error}");
        }
        if !made {
            restored(&backup.file(), &backup.fresh()).expect("a second try");
        }
        let again = open(&backup.fresh()).await;
        assert!(row(&again, "row 39").is_some(), "after {steps} steps");
        stop(again).await;
    }
    assert!(half >= 8, "only {half} places to be interrupted at");
}

#[tokio::test]
async fn a_backup_gives_way_before_the_disk_is_too_full_for_writers_and_leaves_nothing() {
    let directory = TempDir::new().expect("a directory");
    let disk = FaultyDisk::new();
    let options = Options { disk: Arc::new(disk.clone()), min_free_bytes: 1 << 20, ..options(directory.path()) };
    let replica = Replica::open(options).await.expect("a replica");
    for number in 0..40 {
        propose(&replica, put(&format!("row {number}"), &"x".repeat(100_000))).await;
    }
    let place = replica.begin_backup().expect("a place");
    disk.faults().free_bytes.store((1 << 20) + (1 << 17), Ordering::Relaxed);
    let Err(error) = place.write().await else { panic!("a backup on a full disk") };
    assert!(matches!(error, BackupError::DiskFull { required: 1_310_720, .. }), "{error}");
    assert!(matches!(replica.begin_backup(), Err(BackupError::DiskFull { .. })));
    propose(&replica, put("writers", "go on")).await;
    let left = fs::read_dir(directory.path().join("snapshots")).expect("names").count();
    assert_eq!(left, 0);
    disk.faults().free_bytes.store(u64::MAX, Ordering::Relaxed);
    take(&replica).await.expect("a backup");
    stop(replica).await;
}

#[tokio::test]
async fn two_backups_may_be_under_way_and_their_files_have_no_name() {
    let directory = TempDir::new().expect("a directory");
    let replica = filled(directory.path()).await;
    let first = replica.begin_backup().expect("a place").write().await.expect("a backup");
    let second = replica.begin_backup().expect("a place");
    assert!(matches!(replica.begin_backup(), Err(BackupError::TooMany { at_most: 2 })));
    assert_eq!(fs::read_dir(directory.path().join("snapshots")).expect("names").count(), 0);
    drop(first);
    drop(replica.begin_backup().expect("a place"));
    drop(second);
    stop(replica.clone()).await;
    assert!(matches!(replica.begin_backup(), Err(BackupError::ShuttingDown)));
}
