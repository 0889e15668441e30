//! The power goes at any moment: nothing acknowledged is lost, nothing is done
//! twice, nothing is done by half.
//!
//! The real replica runs on a simulated disk, clock and timer. A seed decides
//! what is written, when the power goes, what of the unsynced bytes and names
//! survives, and in which state the store comes back. All of what was ever
//! asked for is then retried, and what the replica holds must be exactly what
//! a plain model makes of the transactions in the order of their revisions.
//!
//! `POWER_CUT_SEEDS=100000 cargo test --test power_cut` tries more seeds than
//! fit into the bounded slice; `POWER_CUT_SEED=7` tries one, and with
//! `POWER_CUT_TRACE=1` tells what it does to the disk.

use std::{
    collections::BTreeMap,
    fs,
    panic::{catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::{
    SPACE, TABLE, deadline,
    model::{Effect, Model, sorted},
    once,
    sim_disk::SimDisk,
};
use bytes::Bytes;
use flotilla_replica::{Change, Committed, Cursor, FeedError, Options, ProposeError, Replica, clock::Clock};
use flotilla_store::{Transaction, TransactionBuilder};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// How long seeds are tried if no number of them is asked for.
const SLICE: Duration = Duration::from_secs(25);
const LIST: &str = "list";

#[test]
fn after_any_power_cut_everything_acknowledged_is_there_once() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("POWER_CUT_SEED") {
        let mut world = World::new(seed);
        if std::env::var_os("POWER_CUT_TRACE").is_some() {
            world.disk.trace();
        }
        return world.run();
    }
    let (wanted, started) = (number("POWER_CUT_SEEDS"), Instant::now());
    let go_on = |seed: &u64| wanted.map_or(started.elapsed() < SLICE, |wanted| *seed < wanted);
    let mut told = Told::default();
    for seed in (0..).take_while(go_on) {
        let tried = catch_unwind(|| {
            let mut world = World::new(seed);
            world.run();
            world.told
        });
        match tried {
            Ok(of_seed) => told.add(&of_seed),
            Err(panic) => {
                eprintln!(
                    "failed; to see it again: POWER_CUT_SEED={seed} cargo test -p flotilla-replica --test power_cut"
                );
                resume_unwind(panic);
            }
        }
    }
    println!("{told:?} in {:?}", started.elapsed());
    assert!(
        told.seeds > 10 && told.snapshots > 0 && told.trims > 0 && told.rebuilt > 0,
        "too little happens: {told:?}"
    );
}

/// What happened over all seeds, to know that the test tests something.
#[derive(Debug, Default)]
struct Told {
    seeds: u64,
    lives: u64,
    cuts: u64,
    cuts_while_opening: u64,
    committed: u64,
    retried: u64,
    snapshots: u64,
    trims: u64,
    rebuilt: u64,
}

/// One seed's cell, over several lives of its server.
struct World {
    random: StdRng,
    disk: SimDisk,
    clock: Arc<SimClock>,
    directory: tempfile::TempDir,
    sizes: Sizes,
    requests: Vec<Request>,
    /// Up to here all requests may be forgotten.
    forgotten: u64,
    follower: Follower,
    has_copy: bool,
    told: Told,
}

struct Sizes {
    log_segment: u64,
    snapshot_log: u64,
    feed_retention: u64,
}

#[derive(Clone)]
struct Request {
    transaction: Transaction,
    fate: Fate,
}

#[derive(Clone, Debug, PartialEq)]
enum Fate {
    /// Nobody was told.
    Unknown,
    Refused,
    Committed(Committed),
}

/// Who follows the feed over all lives, with nothing but a cursor.
#[derive(Clone, Default)]
struct Follower(Arc<Mutex<Followed>>);

#[derive(Default)]
struct Followed {
    cursor: Option<Cursor>,
    requests: BTreeMap<u64, Bytes>,
}

struct SimClock(AtomicU64);

impl World {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        // A directory in memory, where there is one: the store is real.
        let memory = Path::new("/dev/shm");
        let directory = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let directory = directory.expect("a directory");
        let sizes = Sizes {
            log_segment: *[4096, 8192, 32768].choose(&mut random).expect("one"),
            snapshot_log: *[2000, 6000, 1_000_000].choose(&mut random).expect("one"),
            feed_retention: *[4000, 16000].choose(&mut random).expect("one"),
        };
        Self {
            disk: SimDisk::new(directory.path()),
            clock: Arc::new(SimClock(AtomicU64::new(1_000_000_000))),
            random,
            directory,
            sizes,
            requests: Vec::new(),
            forgotten: 0,
            follower: Follower::default(),
            has_copy: false,
            told: Told { seeds: 1, ..Told::default() },
        }
    }

    fn run(&mut self) {
        for _ in 0..self.random.random_range(3..=5) {
            if self.random.random_bool(0.9) {
                // Short lives end while the directory is opened.
                let most = *[40, 120, 400].choose(&mut self.random).expect("one");
                self.disk.cut_after(self.random.random_range(1..=most), self.random.random());
            }
            self.live(true);
            self.end_life();
        }
        self.live(false);
    }

    fn live(&mut self, works: bool) {
        self.disk.note(&format!("life {}", self.told.lives + 1));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime");
        self.told.lives += 1;
        // A cut makes the rest of the life end early, wherever it is.
        let end = runtime.block_on(self.open_and_work(works));
        let gone = self.disk.is_gone();
        drop(runtime);
        match end {
            Ok(()) => {}
            Err(_) if gone => self.told.cuts += 1,
            Err(error) => panic!("the power was on, and yet: {error}"),
        }
    }

    async fn open_and_work(&mut self, works: bool) -> Result<(), String> {
        let replica = Replica::open(self.options()).await.map_err(|error| {
            self.told.cuts_while_opening += u64::from(self.disk.is_gone());
            format!("opening: {error}: {:?}", std::error::Error::source(&error).map(ToString::to_string))
        })?;
        self.told.rebuilt += u64::from(self.remove_stores_set_aside());
        self.retry_all(&replica).await?;
        self.compare(&replica).await?;
        if works {
            self.work(&replica).await?;
        }
        if !works || self.random.random_bool(0.3) {
            replica.shutdown().await.map_err(|error| format!("stopping: {error}"))?;
        }
        Ok(())
    }

    fn options(&self) -> Options {
        Options {
            min_free_bytes: 0,
            cache_bytes: 1024 * 1024,
            disk: Arc::new(self.disk.clone()),
            clock: self.clock.clone(),
            log_thread: false,
            log_segment_bytes: self.sizes.log_segment,
            changes_segment_bytes: 1500,
            snapshot_log_bytes: self.sizes.snapshot_log,
            feed_retention_bytes: self.sizes.feed_retention,
            ..Options::new(self.data_dir())
        }
    }

    /// What nobody was told of is asked for again, and some of the rest.
    async fn retry_all(&mut self, replica: &Replica) -> Result<(), String> {
        // The last ones: older ones may be forgotten because the feed is trimmed.
        let mut known: Vec<(u64, usize)> =
            (0..self.requests.len()).filter_map(|at| Some((self.revision(at)?, at))).collect();
        known.sort_unstable();
        let known =
            known.into_iter().rev().take(8).filter(|(revision, _)| *revision > self.forgotten).map(|(_, at)| at);
        let known: Vec<usize> = known.collect();
        let unknown = (0..self.requests.len()).filter(|at| self.requests[*at].fate == Fate::Unknown);
        for at in unknown.chain(known).collect::<Vec<_>>() {
            self.told.retried += 1;
            let Request { transaction, fate } = self.requests[at].clone();
            let fate_now = propose(replica, transaction).await?;
            if let Fate::Committed(first) = &fate {
                let again = Fate::Committed(Committed { replayed: true, ..first.clone() });
                assert_eq!(fate_now, again, "a retry gets the first answer");
            }
            if fate == Fate::Unknown {
                self.requests[at].fate = fate_now;
            }
        }
        Ok(())
    }

    fn revision(&self, at: usize) -> Option<u64> {
        match &self.requests[at].fate {
            Fate::Committed(committed) => Some(committed.revision),
            _ => None,
        }
    }

    /// Compares rows, revisions, results and feed with what a model says.
    async fn compare(&mut self, replica: &Replica) -> Result<(), String> {
        let mut committed: BTreeMap<u64, (&Transaction, &Committed)> = BTreeMap::new();
        for request in &self.requests {
            if let Fate::Committed(answer) = &request.fate {
                let other = committed.insert(answer.revision, (&request.transaction, answer));
                assert!(other.is_none(), "two requests have revision {}", answer.revision);
            }
        }
        let last = committed.len() as u64;
        assert!(committed.keys().copied().eq(1..=last), "revisions are dense: {:?}", committed.keys());
        assert_eq!(replica.status().revision, last, "nothing happened that nobody asked for");

        let mut model = Model::default();
        let mut effects = BTreeMap::new();
        for (revision, (transaction, answer)) in &committed {
            let effect = model.apply(transaction, *revision, answer.time).unwrap_or_else(|condition| {
                panic!("revision {revision} was committed although condition {condition} did not hold")
            });
            assert_eq!(effect.results, answer.results, "the results of revision {revision}");
            effects.insert(*revision, (*transaction, answer.time, effect));
        }
        let mut rows = BTreeMap::new();
        for table in [TABLE, LIST] {
            for row in replica.store().scan(SPACE, table, (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded)) {
                let (key, row) = row.expect("a row");
                rows.insert((table.to_owned(), key), row);
            }
        }
        assert_eq!(rows, model.rows, "the rows are what the transactions make of them");

        let cursor = |revision| Cursor { history: replica.history().to_string(), revision };
        let mut feed = match replica.feed(Some(&cursor(0))) {
            Err(FeedError::BelowFloor { floor, .. }) => {
                self.told.trims += 1;
                replica.feed(Some(&cursor(floor - 1)))
            }
            feed => feed,
        }
        .expect("a feed from its floor on");
        while feed.cursor().revision < last {
            let first = feed.cursor().revision + 1;
            let records = match feed.next(self.random.random_range(1..40)).await {
                // The floor may rise at any time; that is told, and not a gap.
                Err(FeedError::BelowFloor { floor, .. }) => {
                    feed = replica.feed(Some(&cursor(floor - 1))).expect("a feed from its floor on");
                    continue;
                }
                records => records.map_err(|error| format!("reading the feed: {error}"))?,
            };
            for (revision, record) in (first..).zip(&records) {
                assert_eq!(record.revision, revision, "the feed is dense");
                assert_record(record, &effects[&revision]);
            }
        }
        self.follower.compare(&effects);
        let report = replica.check(deadline()).await.map_err(|error| format!("checking: {error}"))?;
        assert!(report.holds(), "{report:?}");
        self.told.committed = last;
        Ok(())
    }

    /// Several writers and a follower at once, until all is done or the power goes.
    async fn work(&mut self, replica: &Replica) -> Result<(), String> {
        if self.random.random_bool(0.1) {
            // All requests are forgotten; the feed may be trimmed at once.
            self.clock.0.fetch_add(11 * 60 * 1_000_000, Ordering::Relaxed);
            self.forgotten =
                self.requests.iter().filter(|request| matches!(request.fate, Fate::Committed(_))).count() as u64;
        }
        let follower = tokio::spawn(self.follower.clone().follow(replica.clone(), self.random.random_range(0..400)));
        let mut writers = Vec::new();
        for _ in 0..self.random.random_range(1..=4) {
            let mut planned = Vec::new();
            for _ in 0..self.random.random_range(1..=12) {
                let at = self.requests.len();
                let transaction = self.transaction(at);
                self.requests.push(Request { transaction: transaction.clone(), fate: Fate::Refused });
                let pause = *[0, 0, 0, 20, 300].choose(&mut self.random).expect("one");
                planned.push((at, transaction, Duration::from_millis(pause)));
            }
            writers.push(tokio::spawn(write_all(replica.clone(), planned)));
        }
        let mut end = Ok(());
        for writer in writers {
            let (answers, ended) = writer.await.expect("a writer");
            for (at, fate) in answers {
                self.requests[at].fate = fate;
            }
            end = end.and(ended);
        }
        self.told.snapshots += replica.metrics().snapshots.get();
        follower.abort();
        match follower.await {
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            _ => end,
        }
    }

    fn transaction(&mut self, at: usize) -> Transaction {
        let random = &mut self.random;
        let transaction = TransactionBuilder::new(SPACE);
        let mut key = || format!("key-{:02}", random.random_range(0..12));
        let (one, two, three) = (key(), key(), key());
        let value = format!("{at}{}", "x".repeat(random.random_range(0..300)));
        let committed = self.requests.iter().filter_map(|request| match &request.fate {
            Fate::Committed(committed) => Some(committed.revision),
            _ => None,
        });
        let some_revision = committed.collect::<Vec<_>>().choose(random).copied().unwrap_or(1);
        let transaction = match random.random_range(0..10) {
            0..=2 => transaction.put(TABLE, one, value),
            3 => transaction.delete(TABLE, one),
            4..=5 => transaction.append(LIST, one[..5].to_owned(), value),
            6 => transaction.row_absent(TABLE, one.clone()).put(TABLE, one, value),
            7 => transaction.row_at(TABLE, one.clone(), some_revision).put(TABLE, one, value),
            8 => transaction
                .put(TABLE, one, value.clone())
                .delete(TABLE, two.clone())
                .append(LIST, "a", value.clone())
                .put(TABLE, two, value),
            _ => transaction.delete_range(TABLE, one, two).put(TABLE, three, value),
        };
        once(&at.to_string(), transaction)
    }

    /// The process ends, with or without the power, and something becomes of
    /// the store, which is real and therefore not on the simulated disk.
    fn end_life(&mut self) {
        let crashed = self.disk.is_gone();
        self.disk = match crashed && self.random.random_bool(0.3) {
            true => self.disk.after_kill(),
            false => self.disk.after_power_cut(&mut self.random),
        };
        self.disk.note(if crashed { "the power went" } else { "the power is cut" });
        let (store, copy) = (self.data_dir().join("store"), self.directory.path().join("copy"));
        if store.exists() {
            // sled lets go of its files some time after it is closed; these are others.
            let moved = self.directory.path().join("moved");
            copy_dir(&store, &moved);
            remove_dir(&store);
            fs::rename(&moved, &store).expect("moved");
        }
        if self.has_copy && crashed && self.random.random_bool(0.25) {
            remove_dir(&store);
            copy_dir(&copy, &store);
        } else if self.random.random_bool(0.15) {
            remove_dir(&store);
        } else if store.exists() && self.random.random_bool(0.3) {
            remove_dir(&copy);
            copy_dir(&store, &copy);
            self.has_copy = true;
        }
    }

    fn remove_stores_set_aside(&self) -> bool {
        let entries = fs::read_dir(self.data_dir()).expect("a directory").map(|entry| entry.expect("an entry").path());
        let aside: Vec<_> = entries.filter(|path| path.display().to_string().contains("aside")).collect();
        aside.iter().for_each(|path| remove_dir(path));
        !aside.is_empty()
    }

    fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }
}

async fn propose(replica: &Replica, transaction: Transaction) -> Result<Fate, String> {
    match replica.propose(transaction, deadline()).await {
        Ok(committed) => Ok(Fate::Committed(committed)),
        Err(ProposeError::Conflict { .. }) => Ok(Fate::Refused),
        Err(error) => Err(format!("writing: {error}")),
    }
}

type Answers = Vec<(usize, Fate)>;

async fn write_all(replica: Replica, planned: Vec<(usize, Transaction, Duration)>) -> (Answers, Result<(), String>) {
    let mut answers = Vec::new();
    for (at, transaction, pause) in planned {
        tokio::time::sleep(pause).await;
        match propose(&replica, transaction).await {
            Ok(fate) => answers.push((at, fate)),
            Err(error) => {
                answers.push((at, Fate::Unknown));
                return (answers, Err(error));
            }
        }
    }
    (answers, Ok(()))
}

fn assert_record(record: &Change, (transaction, time, effect): &(&Transaction, u64, Effect)) {
    let revision = record.revision;
    assert_eq!(record.request, transaction.request, "the request of revision {revision}");
    assert_eq!((record.time, &record.results), (*time, &effect.results), "revision {revision}");
    assert_eq!(sorted(record.rows.clone()), effect.changes, "the rows of revision {revision}");
}

impl Follower {
    async fn follow(self, replica: Replica, pause: u64) {
        let cursor = self.followed().cursor.clone();
        let mut feed = match replica.feed(cursor.as_ref()) {
            Err(FeedError::BelowFloor { floor, .. }) => {
                replica.feed(Some(&Cursor { history: replica.history().to_string(), revision: floor - 1 }))
            }
            feed => feed,
        }
        .expect("a cursor that was given out is good");
        while let Ok(records) = feed.next(7).await {
            self.note(&records, feed.cursor());
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    fn note(&self, records: &[Arc<Change>], cursor: Cursor) {
        let mut followed = self.followed();
        for record in records {
            let request = record.request.as_ref().expect("a request").key.clone();
            let other = followed.requests.insert(record.revision, request);
            assert!(other.is_none(), "revision {} came twice", record.revision);
        }
        followed.cursor = Some(cursor);
    }

    fn compare(&self, effects: &BTreeMap<u64, (&Transaction, u64, Effect)>) {
        for (revision, key) in &self.followed().requests {
            let (transaction, ..) = effects.get(revision).expect("what a follower saw is still so");
            let request = transaction.request.as_ref().expect("a request");
            assert_eq!(request.key, *key, "revision {revision} is what a follower saw");
        }
    }

    fn followed(&self) -> std::sync::MutexGuard<'_, Followed> {
        self.0.lock().expect("no follower panicked")
    }
}

impl Clock for SimClock {
    fn now(&self) -> u64 {
        // Sometimes goes back, as clocks do.
        let now = self.0.fetch_add(1_700, Ordering::Relaxed);
        if now.is_multiple_of(7) { now - 1_000_000 } else { now }
    }
}

impl Told {
    fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.lives += other.lives;
        self.cuts += other.cuts;
        self.cuts_while_opening += other.cuts_while_opening;
        self.committed += other.committed;
        self.retried += other.retried;
        self.snapshots += other.snapshots;
        self.trims += other.trims;
        self.rebuilt += other.rebuilt;
    }
}

fn remove_dir(path: &Path) {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("removing {}: {error}", path.display()),
        _ => {}
    }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        match entry.path().is_dir() {
            true => copy_dir(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy")),
        }
    }
}
