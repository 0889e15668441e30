//! Devices follow threads over a server that loses its power: what was not synced is gone, or torn.

use std::time::Duration;

use rand::{Rng, rngs::StdRng};

use crate::{
    crash::ledger::now,
    party::{Party, Sizes, network::Network},
    power::{Bench, Disk, Image, Journal, choices},
    seeded,
};

const CUTS: usize = 5;

const SIZES: Sizes = Sizes { users: 4, devices_of_user: 4, threads: 4, members: 3, posters: 4, mishaps: (50, 500) };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_pushed_or_acknowledged_is_there_after_a_power_cut() {
    let mut random = seeded("power_cut");
    let mut bench = Bench::new(&["all"]);
    let mut image = Image::default();
    image.add_directory("data".into());
    let network = Network::default();
    let mut party = None;
    for cut in 0..CUTS {
        let (setup, journal) = bench.setup(&image, true);
        let mut server = setup.start().await;
        network.up(server.port());
        let party = match &mut party {
            Some(party) => party,
            nobody => {
                let mut everybody = Party::gather(network.clone(), SIZES, random.random()).await;
                everybody.begin();
                nobody.insert(everybody)
            }
        };
        let begun = now();
        tokio::time::sleep(Duration::from_micros(random.random_range(100_000..500_000))).await;
        network.down();
        server.kill();
        party.is_well().await;

        let journal = Journal::read(&journal);
        branch(&mut bench, party, &image, &journal, begun, &mut random).await;
        let (names, keep) = choices(&mut random);
        eprintln!("cut {cut}: after all {} records, {} syncs, {keep:?}, {names:?}", journal.len(), journal.syncs());
        image = Disk::new(&image, &journal, names).cut(journal.len(), keep, &mut random);
    }
    let (setup, _) = bench.setup(&image, false);
    let mut server = setup.start().await;
    network.up(server.port());
    let totals = party.expect("everybody").finish().await;
    eprintln!("{totals:?}");
    assert!(totals.counts.events > 0 && totals.counts.resumed > CUTS, "too little happened: {totals:?}");
    server.kill();
    bench.clear();
}

/// The power goes at an earlier moment, on a branch that is looked at and thrown away.
async fn branch(bench: &mut Bench, party: &Party, image: &Image, journal: &Journal, begun: u64, random: &mut StdRng) {
    let first = (0..journal.len()).find(|records| journal.time_of(*records) > begun).unwrap_or(journal.len());
    let earlier = random.random_range(first..=journal.len());
    let (names, keep) = choices(random);
    eprintln!("a branch after {earlier} of {} records, {keep:?}, {names:?}", journal.len());
    let branch = Disk::new(image, journal, names).cut(earlier, keep, random);
    let (setup, _) = bench.setup(&branch, false);
    let mut server = setup.start().await;
    let network = Network::default();
    network.up(server.port());
    party.verify_branch(&network.wire().client(), journal.time_of(earlier)).await;
    server.kill();
}
