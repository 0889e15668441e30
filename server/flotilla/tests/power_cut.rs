//! A power cut on the real binary: everything that was written and not synced is gone, or torn.
//!
//! The server runs under `ci/powercut/shim.c`, which writes down what it does to its files; after `kill -9` the next
//! server gets what a disk would have kept. From the same journal the power is also cut at an earlier moment, on a
//! branch that is looked at and thrown away. `SEED=… cargo test -p flotilla --test power_cut` repeats the choices of a
//! run, `CUTS=…` says how many there are.

#[cfg(target_os = "linux")]
#[path = "support/crash/mod.rs"]
#[allow(dead_code, reason = "the crash tests share these, and each uses a part")]
mod crash;
#[cfg(target_os = "linux")]
#[path = "support/power/mod.rs"]
#[allow(dead_code, reason = "the power cut tests share these, and each uses a part")]
mod power;

#[cfg(not(target_os = "linux"))]
#[test]
#[ignore = "the shim is Linux's"]
fn power_cuts_lose_nothing_that_was_acknowledged() {}

#[cfg(target_os = "linux")]
mod on_linux {
    use std::{
        env, fs,
        process::Command,
        time::{Duration, Instant},
    };

    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::{
        crash::{Crew, ledger},
        power::{Bench, Disk, Image, Journal, Keep, Names, choices, environment},
    };

    const CUTS: usize = 12;
    const WRITERS: usize = 6;
    /// Some rounds write past the end of a log segment.
    const FILLING: usize = 9 << 20;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn power_cuts_lose_nothing_that_was_acknowledged() {
        let seed: u64 =
            env::var("SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("SEED is a number"));
        let cuts: usize = env::var("CUTS").map_or(CUTS, |cuts| cuts.parse().expect("CUTS is a number"));
        eprintln!("seed {seed}: SEED={seed} cargo test -p flotilla --test power_cut");
        let mut random = StdRng::seed_from_u64(seed);
        let mut bench = Bench::new(&["users", "records"]);
        let mut crew = Crew::new(random.random(), WRITERS, 400);
        let mut image = Image::default();
        image.add_directory("data".into());
        let started = Instant::now();
        for cut in 0..cuts {
            if cut % 3 == 2 {
                image = cut_during_start(&mut bench, &image, &mut random).await;
            }
            image = cut_at_work(&mut bench, &mut crew, &image, cut, &mut random).await;
        }
        let (setup, _) = bench.setup(&image, false);
        let mut server = setup.start().await;
        let mut round = crew.resume(&server).await;
        round.client.check().await;
        eprintln!("{cuts} cuts in {:?}: {:?}", started.elapsed(), crew.totals);
        crew.stop(&mut server, round).await;
        bench.clear();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_data_directory_that_the_server_made_is_there_after_a_power_cut() {
        let mut random = StdRng::seed_from_u64(0);
        let mut bench = Bench::new(&["users", "records"]);
        let mut crew = Crew::new(0, 1, 10);
        let nothing = Image::default();
        let (setup, journal) = bench.setup(&nothing, true);
        let mut server = setup.start().await;
        let round = crew.resume(&server).await;
        crew.kill(&mut server, round).await;
        let journal = Journal::read(&journal);
        let image = Disk::new(&nothing, &journal, Names::ByDirectory).cut(journal.len(), Keep::Nothing, &mut random);
        assert!(image.directories().any(|path| path == "data"), "the directory that holds everything is gone");
        let (setup, _) = bench.setup(&image, false);
        let mut server = setup.start().await;
        let round = crew.resume(&server).await;
        crew.kill(&mut server, round).await;
        bench.clear();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_power_cut_right_after_a_clean_stop_loses_nothing() {
        let mut random = StdRng::seed_from_u64(0);
        let mut bench = Bench::new(&["users", "records"]);
        let mut crew = Crew::new(0, WRITERS, 400);
        let mut image = Image::default();
        // The first time everything reaches the disk, so that there is a store to trust; then only what was synced.
        for stop in 0..4 {
            let keep = if stop == 0 { Keep::Sectors(1.0) } else { Keep::Nothing };
            let (setup, journal) = bench.setup(&image, true);
            let mut server = setup.start().await;
            let mut round = crew.resume(&server).await;
            crew.fill(&mut round, FILLING).await;
            crew.work(&mut round);
            tokio::time::sleep(Duration::from_millis(100)).await;
            crew.stop(&mut server, round).await;
            let journal = Journal::read(&journal);
            image = Disk::new(&image, &journal, Names::ByDirectory).cut(journal.len(), keep, &mut random);
        }
        let (setup, _) = bench.setup(&image, false);
        let mut server = setup.start().await;
        let mut round = crew.resume(&server).await;
        round.client.check().await;
        crew.stop(&mut server, round).await;
        bench.clear();
    }

    #[test]
    fn the_shim_keeps_what_was_synced_and_drops_the_rest() {
        let mut bench = Bench::new(&["users", "records"]);
        let folder = bench.next_folder();
        let (disk, journal) = (folder.join("disk"), folder.join("journal"));
        fs::create_dir(&disk).expect("a folder");
        let script = "mkdir d && echo kept >d/kept && sync d/kept && sync d && sync . && echo more >>d/kept && \
                      echo nameless >d/nameless && sync d/nameless && echo bytes >d/bytes && rm d/kept";
        let mut command = Command::new("/bin/sh");
        command.arg("-ec").arg(script).current_dir(&disk).envs(environment(&disk, &journal));
        assert!(command.status().expect("a shell").success());

        let journal = Journal::read(&journal);
        let mut random = StdRng::seed_from_u64(0);
        let mut files = |names, keep| -> Vec<(String, String)> {
            let image = Disk::new(&Image::default(), &journal, names).cut(journal.len(), keep, &mut random);
            image.files().map(|(path, bytes)| (path.to_owned(), String::from_utf8_lossy(bytes).into_owned())).collect()
        };
        let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
        assert_eq!(files(Names::ByDirectory, Keep::Nothing), [file("d/kept", "kept\n")]);
        let by_any = [file("d/kept", "kept\n"), file("d/nameless", "nameless\n")];
        assert_eq!(files(Names::ByAnySync, Keep::Nothing), by_any);
        let everything = [file("d/bytes", "bytes\n"), file("d/nameless", "nameless\n")];
        assert_eq!(files(Names::ByDirectory, Keep::Sectors(1.0)), everything);
        bench.clear();
    }

    /// Writers and watchers at work, then the cut; returns what is left.
    async fn cut_at_work(bench: &mut Bench, crew: &mut Crew, image: &Image, cut: usize, random: &mut StdRng) -> Image {
        let (setup, journal) = bench.setup(image, true);
        let mut server = setup.start().await;
        let mut round = crew.resume(&server).await;
        let places = crew.places();
        let begun = ledger::now();
        if cut % 4 == 1 {
            crew.fill(&mut round, FILLING).await;
        }
        crew.work(&mut round);
        tokio::time::sleep(Duration::from_micros(random.random_range(20_000..150_000))).await;
        match cut % 5 {
            2 => crew.stop(&mut server, round).await,
            _ => crew.kill(&mut server, round).await,
        }
        let journal = Journal::read(&journal);

        let first = (0..journal.len()).find(|records| journal.time_of(*records) > begun).unwrap_or(journal.len());
        let earlier = random.random_range(first..=journal.len());
        let (names, keep) = choices(random);
        eprintln!("cut {cut}: a branch after {earlier} of {} records, {keep:?}, {names:?}", journal.len());
        let branch = Disk::new(image, &journal, names).cut(earlier, keep, random);
        let (setup, _) = bench.setup(&branch, false);
        let server = setup.start().await;
        crew.verify_branch(&server, &places, journal.time_of(earlier)).await;

        let (names, keep) = choices(random);
        let syncs = journal.syncs();
        eprintln!("cut {cut}: after all {} records, {syncs} syncs, {keep:?}, {names:?}", journal.len());
        Disk::new(image, &journal, names).cut(journal.len(), keep, random)
    }

    /// The power goes while the server reads back, cuts, rebuilds.
    async fn cut_during_start(bench: &mut Bench, image: &Image, random: &mut StdRng) -> Image {
        let (setup, journal) = bench.setup(image, true);
        let mut server = setup.start().await;
        server.kill();
        let journal = Journal::read(&journal);
        let (names, keep) = choices(random);
        let records = random.random_range(0..=journal.len());
        eprintln!("a cut during the start, after {records} of {} records, {keep:?}, {names:?}", journal.len());
        Disk::new(image, &journal, names).cut(records, keep, random)
    }
}
