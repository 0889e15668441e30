//! Two hundred devices follow threads over a server that dies again and again.

use std::{
    fs,
    time::{Duration, Instant},
};

use rand::Rng;

use crate::{
    crash::server::Setup,
    party::{Party, Sizes, network::Network},
    seeded,
};

const LIVES: usize = 18;
/// Every so many lives the server is asked to stop instead of being killed,
const STOP_LIVES: usize = 5;
/// another is killed while it starts,
const START_LIVES: usize = 4;
/// and there is one thread more.
const THREAD_LIVES: usize = 6;

const SIZES: Sizes =
    Sizes { users: 40, devices_of_user: 5, threads: 12, members: 10, posters: 4, mishaps: (200, 4_000) };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_get_every_event_once_and_in_order_across_kills() {
    let mut random = seeded("across_kills");
    let folder = tempfile::Builder::new().prefix("flotilla-push-").tempdir().expect("a folder").keep();
    eprintln!("the server's folder, kept if this fails: {}", folder.display());
    let mut setup = Setup::new(&folder, &folder.join("data"));
    setup.services = &["all"];
    setup.limits = "snapshot_log = \"256 KiB\"\nmin_free_disk = \"1 MiB\"".into();
    let started = Instant::now();

    let network = Network::default();
    let mut server = setup.start().await;
    network.up(server.port());
    let mut party = Party::gather(network.clone(), SIZES, random.random()).await;
    party.begin();
    for life in 1..=LIVES {
        tokio::time::sleep(Duration::from_micros(random.random_range(20_000..700_000))).await;
        party.is_well().await;
        network.down();
        if life % STOP_LIVES == 0 {
            let status = server.stop().await;
            assert!(status.success(), "a server that is asked to stop ends with {status}:\n{}", server.log());
        } else {
            server.kill();
        }
        if life % START_LIVES == 0 {
            let mut unlucky = setup.spawn();
            tokio::time::sleep(Duration::from_micros(random.random_range(5_000..80_000))).await;
            unlucky.kill();
        }
        server = setup.start().await;
        network.up(server.port());
        if life % THREAD_LIVES == 0 {
            party.add_thread().await;
        }
    }
    eprintln!("{LIVES} lives in {:?}", started.elapsed());
    let totals = party.finish().await;
    eprintln!("and all caught up after {:?}: {totals:?}", started.elapsed());
    assert!(totals.counts.resumed > LIVES && totals.counts.restarted > LIVES, "too little went wrong: {totals:?}");
    server.kill();
    fs::remove_dir_all(&folder).expect("the folder removed");
}
