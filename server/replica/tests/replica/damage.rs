//! Files that were damaged, and disks that fail: what is refused, what is made
//! again, and what a person is told.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use crate::support::{deadline, faulty_disk::FaultyDisk, options, put, row, stop};
use flotilla_replica::{Consistency, Cursor, OpenError, Options, ProposeError, Replica};

/// Bytes of a segment's header, and of a frame's (`src/segment.rs`).
const HEADER: usize = 40;

#[tokio::test]
async fn a_torn_tail_is_cut_and_told_and_the_next_write_works() {
    let directory = tempfile::tempdir().expect("a directory");
    fill(directory.path(), 0..20).await;
    let segment = segments(&directory.path().join("log")).pop().expect("a segment");
    let end = frames(&segment).last().map(|frame| frame.end).expect("a frame");
    // A frame as it is when the power went while it was written.
    let mut bytes = fs::read(&segment).expect("a segment");
    let first = frames(&segment)[0].offset;
    bytes.copy_within(first..first + HEADER, end);
    bytes[end + 16..end + 24].copy_from_slice(&(end as u64).to_le_bytes());
    bytes[end + HEADER..end + HEADER + 9].copy_from_slice(b"half of i");
    fs::write(&segment, bytes).expect("written");

    let told = Told::default();
    {
        let _guard = tracing::subscriber::set_default(told.clone());
        let here = Options { log_thread: false, ..small(directory.path()) };
        let replica = Replica::open(here).await.expect("a replica");
        replica.propose(put("after", "the tear"), deadline()).await.expect("a commit");
        stop(replica).await;
    }
    let name = segment.file_name().expect("a name").to_string_lossy();
    assert!(told.lines().iter().any(|line| line.contains("torn") && line.contains(&*name)), "{:?}", told.lines());
    let replica = Replica::open(small(directory.path())).await.expect("a replica");
    assert_eq!(row(&replica, "after").as_deref(), Some("the tear"));
    assert_holds(&replica, 0..20).await;
}

#[tokio::test]
async fn damage_before_a_valid_group_is_refused_with_file_and_offset_and_nothing_is_changed() {
    let directory = tempfile::tempdir().expect("a directory");
    fill(directory.path(), 0..20).await;
    let segment = segments(&directory.path().join("log")).pop().expect("a segment");
    let frame = frames(&segment).into_iter().nth(8).expect("a frame");
    for at in [frame.offset + 1, frame.offset + HEADER + 3] {
        flip(&segment, at);
        let before = files(directory.path());
        let error = refusal(directory.path()).await;
        assert_names(&error, &segment, frame.offset);
        assert!(files(directory.path()) == before, "a refused directory is not changed");
        flip(&segment, at);
    }
    let replica = Replica::open(small(directory.path())).await.expect("a replica");
    assert_holds(&replica, 0..20).await;
}

#[tokio::test]
async fn a_flip_in_the_last_group_is_noticed_because_the_store_is_ahead() {
    let directory = tempfile::tempdir().expect("a directory");
    fill(directory.path(), 0..20).await;
    let segment = segments(&directory.path().join("log")).pop().expect("a segment");
    let last = frames(&segment).pop().expect("a frame");
    flip(&segment, last.offset + HEADER + 3);
    let error = refusal(directory.path()).await;
    assert!(error.to_string().contains("ahead of it"), "{error}");
}

#[tokio::test]
async fn a_missing_segment_is_refused_and_named() {
    let directory = tempfile::tempdir().expect("a directory");
    fill(directory.path(), 0..400).await;
    let log = segments(&directory.path().join("log"));
    assert!(log.len() > 3, "{log:?}");
    let aside = directory.path().join("aside");
    for (position, missing) in log.iter().enumerate() {
        fs::rename(missing, &aside).expect("moved");
        let error = refusal(directory.path()).await.to_string();
        let what = match position {
            0 => "are missing in".to_owned(),
            _ if position + 1 == log.len() => "ahead of it".to_owned(),
            _ => format!("{} is missing", missing.display()),
        };
        assert!(error.contains(&what), "{error}");
        fs::rename(&aside, missing).expect("moved");
    }
    let replica = Replica::open(small(directory.path())).await.expect("a replica");
    assert_holds(&replica, 0..400).await;
}

#[tokio::test]
async fn a_flip_anywhere_in_a_segment_that_others_follow_is_refused_with_its_file_and_offset() {
    let directory = tempfile::tempdir().expect("a directory");
    fill(directory.path(), 0..200).await;
    let first = segments(&directory.path().join("log")).remove(0);
    let frames = frames(&first);
    let (middle, last) = (&frames[frames.len() / 2], &frames[frames.len() - 1]);
    for (frame, at) in [(middle, HEADER), (last, HEADER), (middle, 0), (last, 0)] {
        flip(&first, frame.offset + at);
        assert_names(&refusal(directory.path()).await, &first, frame.offset);
        flip(&first, frame.offset + at);
    }
    flip(&first, 20);
    assert_names(&refusal(directory.path()).await, &first, 0);
}

#[tokio::test]
async fn a_store_of_garbage_is_set_aside_and_made_again() {
    let directory = tempfile::tempdir().expect("a directory");
    fill(directory.path(), 0..300).await;
    for file in files(&directory.path().join("store")).keys() {
        fs::write(file, vec![0xA5; 70_000]).expect("written");
    }
    let replica = Replica::open(small(directory.path())).await.expect("a replica");
    assert_holds(&replica, 0..300).await;
    let aside = names(directory.path()).into_iter().find(|name| name.starts_with("store.aside-")).expect("set aside");
    assert!(files(&directory.path().join(aside)).values().any(|bytes| bytes.starts_with(&[0xA5])), "it is still there");
}

#[tokio::test]
async fn of_the_stores_that_were_set_aside_only_the_last_is_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    fill(directory.path(), 0..300).await;
    for _ in 0..3 {
        for file in files(&directory.path().join("store")).keys() {
            fs::write(file, vec![0xA5; 70_000]).expect("written");
        }
        let replica = Replica::open(small(directory.path())).await.expect("a replica");
        assert_holds(&replica, 0..300).await;
        stop(replica).await;
    }
    let aside = names(directory.path()).into_iter().filter(|name| name.starts_with("store.aside-"));
    assert_eq!(aside.count(), 1);
}

#[tokio::test]
async fn a_store_with_flipped_bytes_is_noticed_after_a_crash_and_made_again() {
    let directory = tempfile::tempdir().expect("a directory");
    fill(directory.path(), 0..300).await;
    let file = directory.path().join("store").join("db");
    let length = fs::metadata(&file).expect("a file").len() as usize;
    let sound = fs::read(&file).expect("a file");
    for part in 0..16 {
        let mut bytes = sound.clone();
        bytes[part * length / 16..][..200].iter_mut().for_each(|byte| *byte ^= 0x5A);
        fs::write(&file, bytes).expect("written");
        let _ = fs::remove_file(directory.path().join("clean"));
        let replica = Replica::open(small(directory.path())).await.expect("a replica");
        assert_holds(&replica, 0..300).await;
        stop(replica).await;
    }
}

#[tokio::test]
async fn change_records_of_garbage_or_cut_short_are_made_again_without_a_gap() {
    let directory = tempfile::tempdir().expect("a directory");
    fill(directory.path(), 0..300).await;
    let changes = directory.path().join("changes");
    type Harm = fn(&Path);
    let harms: [Harm; 5] = [
        |file| fs::write(file, vec![0xA5; 5000]).expect("written"),
        |file| flip(file, fs::metadata(file).expect("a file").len() as usize / 2),
        |file| fs::File::options().write(true).open(file).and_then(|file| file.set_len(700)).expect("cut"),
        |file| fs::write(file, []).expect("written"),
        |file| fs::remove_file(file).expect("removed"),
    ];
    for (number, harm) in harms.into_iter().enumerate() {
        let damaged = segments(&changes);
        assert!(damaged.len() > 3, "{damaged:?}");
        harm(&damaged[number % 3 * (damaged.len() - 1) / 2]);
        let replica = Replica::open(small(directory.path())).await.expect("a replica");
        assert_holds(&replica, 0..300).await;
        assert_feed_is_dense(&replica, 300).await;
        stop(replica).await;
    }
}

#[tokio::test]
async fn a_snapshot_of_garbage_is_refused_and_named() {
    let directory = tempfile::tempdir().expect("a directory");
    fill_until_purged(directory.path()).await;
    let snapshot = files(&directory.path().join("snapshots")).into_keys().next().expect("a snapshot");
    flip(&snapshot, 20);
    let error = with_causes(&refusal(directory.path()).await);
    assert!(error.contains(&snapshot.display().to_string()), "{error}");
    flip(&snapshot, 20);
    stop(Replica::open(small(directory.path())).await.expect("a replica")).await;
    // A row of it matters once the store is gone; then also the second time.
    fs::remove_dir_all(directory.path().join("store")).expect("removed");
    flip(&snapshot, fs::metadata(&snapshot).expect("a file").len() as usize / 2);
    for _ in 0..2 {
        let error = with_causes(&refusal(directory.path()).await);
        assert!(error.contains(&snapshot.display().to_string()), "{error}");
    }
    flip(&snapshot, fs::metadata(&snapshot).expect("a file").len() as usize / 2);
    let replica = Replica::open(small(directory.path())).await.expect("a replica");
    assert!(replica.check(deadline()).await.expect("a report").holds());
}

#[tokio::test]
async fn a_directory_of_a_newer_format_is_refused_and_not_changed() {
    let directory = tempfile::tempdir().expect("a directory");
    fill(directory.path(), 0..5).await;
    let identity = directory.path().join("identity.json");
    let text = fs::read_to_string(&identity).expect("an identity");
    fs::write(&identity, text.replace("\"format\": 1", "\"format\": 2")).expect("written");
    let before = files(directory.path());
    let error = refusal(directory.path()).await;
    assert!(matches!(error, OpenError::NewerFormat { found: 2, known: 1, .. }), "{error}");
    assert!(files(directory.path()) == before, "a refused directory is not changed");
    fs::write(&identity, text).expect("written");

    let segment = segments(&directory.path().join("log")).remove(0);
    let mut bytes = fs::read(&segment).expect("a segment");
    bytes[8] = 2;
    let checksum = crc32c::crc32c(&bytes[..32]);
    bytes[32..36].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&segment, bytes).expect("written");
    let error = refusal(directory.path()).await;
    assert!(matches!(error, OpenError::NewerFormat { found: 2, known: 1, .. }), "{error}");
}

#[tokio::test]
async fn a_read_only_directory_is_refused_with_the_path_and_the_reason() {
    let directory = tempfile::tempdir().expect("a directory");
    fill(directory.path(), 0..5).await;
    let disk = FaultyDisk::new();
    disk.faults().read_only.store(true, Ordering::Relaxed);
    let refused = Replica::open(Options { disk: Arc::new(disk), ..small(directory.path()) }).await.err();
    let error = with_causes(&refused.expect("a refusal"));
    assert!(error.contains(&directory.path().display().to_string()) && error.contains("read-only"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_sync_that_failed_nothing_is_acknowledged_and_reads_go_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = FaultyDisk::new();
    let replica = Replica::open(Options { disk: Arc::new(disk.clone()), ..small(directory.path()) }).await;
    let replica = replica.expect("a replica");
    replica.propose(put("before", "1"), deadline()).await.expect("a commit");
    disk.faults().fail_next_sync.store(true, Ordering::Relaxed);
    // More writers than fit into what is under way: none may be forgotten.
    let writers: Vec<_> = (0..500)
        .map(|number| {
            let replica = replica.clone();
            tokio::spawn(async move { replica.propose(put(&format!("{number}"), "2"), deadline()).await })
        })
        .collect();
    let mut failed = 0;
    for writer in writers {
        let answered =
            tokio::time::timeout(Duration::from_secs(10), writer).await.expect("an answer long before the deadline");
        match answered.expect("a writer") {
            Err(ProposeError::LogFailed { reason }) => {
                failed += 1;
                assert!(reason.contains("Input/output error"), "{reason}");
            }
            answer => panic!("acknowledged, or refused for no reason: {answer:?}"),
        }
    }
    assert_eq!(failed, 500);
    let syncs = disk.faults().syncs.load(Ordering::Relaxed);
    for _ in 0..3 {
        let refused = replica.propose(put("later", "3"), deadline()).await;
        assert!(matches!(refused, Err(ProposeError::LogFailed { .. })), "{refused:?}");
    }
    assert_eq!(disk.faults().syncs.load(Ordering::Relaxed), syncs, "a sync that failed is not tried again");
    replica.read_barrier(Consistency::Linearizable, deadline()).await.expect("reads go on");
    assert_eq!(row(&replica, "before").as_deref(), Some("1"));
    assert_eq!(row(&replica, "later"), None);
    assert!(replica.status().failed.expect("a reason").contains("Input/output error"));
    stop(replica).await;
    let replica = Replica::open(small(directory.path())).await.expect("a replica");
    assert_eq!(row(&replica, "before").as_deref(), Some("1"));
    assert_eq!(row(&replica, "later"), None);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_writes_until_there_is_room_again_and_reads_go_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = FaultyDisk::new();
    let small = small(directory.path());
    let options = Options { disk: Arc::new(disk.clone()), min_free_bytes: 1000, log_thread: false, ..small };
    let replica = Replica::open(options).await.expect("a replica");
    replica.propose(put("a", "1"), deadline()).await.expect("a commit");
    disk.faults().free_bytes.store(999, Ordering::Relaxed);
    tokio::time::advance(Duration::from_secs(1)).await;
    let refused = loop {
        match replica.propose(put("a", "2"), deadline()).await {
            Err(refused) => break refused,
            Ok(_) => tokio::time::advance(Duration::from_secs(1)).await,
        }
    };
    assert!(matches!(refused, ProposeError::DiskFull { free: 999, required: 1000 }), "{refused}");
    replica.read_barrier(Consistency::Linearizable, deadline()).await.expect("reads go on");
    assert!(row(&replica, "a").is_some());
    disk.faults().free_bytes.store(1000, Ordering::Relaxed);
    let limit = deadline();
    while replica.propose(put("a", "3"), deadline()).await.is_err() {
        assert!(tokio::time::Instant::now() < limit, "writes are accepted again");
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(row(&replica, "a").as_deref(), Some("3"));
}

/// Small files, so that there are several.
fn small(directory: &Path) -> Options {
    Options {
        log_segment_bytes: 16 * 1024,
        changes_segment_bytes: 8 * 1024,
        cache_bytes: 1 << 20,
        ..options(directory)
    }
}

/// Makes a directory with these rows, one transaction each.
async fn fill(directory: &Path, numbers: std::ops::Range<u32>) {
    let replica = Replica::open(small(directory)).await.expect("a replica");
    for number in numbers {
        replica.propose(put(&format!("key-{number}"), &"v".repeat(100)), deadline()).await.expect("a commit");
    }
    stop(replica).await;
}

async fn fill_until_purged(directory: &Path) {
    let replica = Replica::open(Options { snapshot_log_bytes: 20_000, ..small(directory) }).await.expect("a replica");
    let limit = deadline();
    let first = segments(&directory.join("log")).remove(0);
    for number in 0.. {
        assert!(tokio::time::Instant::now() < limit, "the log is purged");
        replica.propose(put(&format!("key-{}", number % 300), &"v".repeat(100)), deadline()).await.expect("a commit");
        if !first.exists() {
            break;
        }
    }
    stop(replica).await;
}

async fn assert_holds(replica: &Replica, numbers: std::ops::Range<u32>) {
    for number in numbers {
        assert!(row(replica, &format!("key-{number}")).is_some(), "row {number} is gone");
    }
    assert!(replica.check(deadline()).await.expect("a report").holds());
}

async fn assert_feed_is_dense(replica: &Replica, last: u64) {
    let mut feed = replica.feed(Some(&Cursor { history: replica.history().to_string(), revision: 0 })).expect("a feed");
    let mut next = 1;
    while next <= last {
        for record in feed.next(100).await.expect("records") {
            assert_eq!(record.revision, next);
            next += 1;
        }
    }
}

async fn refusal(directory: &Path) -> OpenError {
    Replica::open(small(directory)).await.err().expect("a refusal")
}

fn assert_names(error: &OpenError, path: &Path, at: usize) {
    match error {
        OpenError::Damaged { file, offset, .. } => assert_eq!((file.as_path(), *offset), (path, at as u64), "{error}"),
        other => panic!("not said to be damaged: {other}"),
    }
}

struct Frame {
    offset: usize,
    end: usize,
}

fn frames(segment: &Path) -> Vec<Frame> {
    let bytes = fs::read(segment).expect("a segment");
    let (mut frames, mut offset) = (Vec::new(), HEADER);
    while bytes.get(offset..offset + 4) == Some(&b"FRAM"[..]) {
        let length = u32::from_le_bytes(bytes[offset + 4..offset + 8].try_into().expect("four bytes")) as usize;
        let end = offset + (HEADER + length).next_multiple_of(8);
        frames.push(Frame { offset, end });
        offset = end;
    }
    frames
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).expect("a file");
    bytes[at] ^= 0x10;
    fs::write(file, bytes).expect("written");
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    files(directory).into_keys().filter(|path| path.extension().is_some_and(|end| end == "seg")).collect()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// Every file below a directory, except who has the directory now.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for name in names(directory).into_iter().filter(|name| name != "lock") {
        let path = directory.join(name);
        match path.is_dir() {
            true => files.extend(self::files(&path)),
            false => drop(files.insert(path.clone(), fs::read(&path).expect("a file"))),
        }
    }
    files
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Keeps what is logged, one line an event.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn lines(&self) -> Vec<String> {
        self.0.lock().expect("lines").clone()
    }
}

impl tracing::Subscriber for Told {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("flotilla")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().expect("lines").push(line.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

struct Line(String);

impl tracing::field::Visit for Line {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!("{field}={value:?} ");
    }
}
