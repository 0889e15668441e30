//! `kill -9` at random moments, again and again, under writers and watchers: nothing acknowledged is missing, nothing is
//! doubled, watchers go on without gap or duplicate, and one that slept too long starts over.
//!
//! `SEED=… cargo test -p flotilla --test kill` repeats the choices of a run; `SOAK=1 SOAK_MINUTES=240` runs it for long
//! (`make soak`).

#[path = "support/crash/mod.rs"]
#[allow(dead_code, reason = "the crash tests share these, and each uses a part")]
mod crash;

use std::{
    env, fs,
    time::{Duration, Instant},
};

use crash::{Crew, Round, server::Setup, watcher::Watcher};
use rand::{Rng, SeedableRng, rngs::StdRng};

const KILLS: usize = 200;
const WRITERS: usize = 6;
/// Every so many rounds the floor is moved, and all hashes are checked.
const FLOOR_ROUNDS: usize = 40;
const CHECK_ROUNDS: usize = 20;
/// Every so many kills one more comes while the server starts.
const START_ROUNDS: usize = 8;
/// More than the feed keeps, and than it keeps for retries.
const FILLING: usize = 5 << 20;
/// How long the floor may take to move.
const FLOOR_LIMIT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_kills_lose_nothing_double_nothing_and_watchers_go_on() {
    let seed: u64 = env::var("SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("SEED is a number"));
    let soak = env::var("SOAK").is_ok_and(|soak| soak == "1");
    let minutes: u64 =
        env::var("SOAK_MINUTES").map_or(240, |minutes| minutes.parse().expect("SOAK_MINUTES is a number"));
    eprintln!("seed {seed}: SEED={seed} cargo test -p flotilla --test kill");
    let mut random = StdRng::seed_from_u64(seed);
    let folder = tempfile::Builder::new().prefix("flotilla-kill-").tempdir().expect("a folder").keep();
    eprintln!("the server's folder, kept if this fails: {}", folder.display());
    let mut setup = Setup::new(&folder, &folder.join("data"));
    setup.limits = "feed_retention_size = \"256 KiB\"\nsnapshot_log = \"256 KiB\"\nmin_free_disk = \"1 MiB\"".into();

    let mut crew = Crew::new(random.random(), WRITERS, 200);
    let mut sleeper: Option<Watcher> = None;
    let started = Instant::now();
    let mut kills = 0;
    let goes_on = |kills: usize| match soak {
        true => started.elapsed() < Duration::from_secs(60 * minutes),
        false => kills < KILLS,
    };
    while goes_on(kills) {
        if kills % START_ROUNDS == START_ROUNDS - 1 {
            let mut server = setup.spawn();
            tokio::time::sleep(Duration::from_micros(random.random_range(5_000..80_000))).await;
            server.kill();
            kills += 1;
        }
        let mut server = setup.start().await;
        let mut round = crew.resume(&server).await;
        if kills % FLOOR_ROUNDS == 0 {
            sleeper = Some(move_floor(&mut crew, &mut round).await);
        }
        if kills % CHECK_ROUNDS == 0 {
            round.client.check().await;
            eprintln!("{kills} kills in {:?}: {:?}", started.elapsed(), crew.totals);
        }
        crew.work(&mut round);
        let moment = Instant::now() + Duration::from_micros(random.random_range(20_000..120_000));
        if let Some(sleeper) = &sleeper {
            crew.start_late(&mut round, sleeper).await;
        }
        tokio::time::sleep_until(moment.into()).await;
        crew.kill(&mut server, round).await;
        kills += 1;
    }
    let mut server = setup.start().await;
    let mut round = crew.resume(&server).await;
    round.client.check().await;
    crew.stop(&mut server, round).await;
    eprintln!("{kills} kills in {:?}: {:?}", started.elapsed(), crew.totals);
    assert!(crew.totals.started_over > kills / 2, "too few watchers below the floor: {:?}", crew.totals);
    fs::remove_dir_all(&folder).expect("the folder removed");
}

/// Writes until what a watcher knew before is below the floor; returns that watcher.
async fn move_floor(crew: &mut Crew, round: &mut Round) -> Watcher {
    let [_, sleeper] = crew.places();
    crew.fill(round, FILLING).await;
    let limit = Instant::now() + FLOOR_LIMIT;
    while !sleeper.is_below_floor(round.client.clone()).await {
        assert!(Instant::now() < limit, "the floor has not moved after {FLOOR_LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sleeper
}
