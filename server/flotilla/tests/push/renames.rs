//! A user who is renamed again and again, in many threads, on a server that dies in the middle of telling them.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use flotilla_client::{Client, Pages, request_id};
use flotilla_proto::{
    threads::v1::{ListMembersRequest, ListThreadsRequest, event::Kind},
    users::v1::{UpdateUserRequest, User},
};
use futures::{StreamExt, stream};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    crash::server::Setup,
    party::{
        self,
        network::{Network, insist},
        truth::events,
    },
    seeded,
};

const CRASHES: usize = 100;
/// More than two of the transactions that tell them.
const THREADS: usize = 300;
/// The longest pause between two renamings, in milliseconds.
const PAUSE: u64 = 300;
/// Every so many crashes one more comes while the server starts.
const START_CRASHES: usize = 8;
/// How long the last renamings may take to be told.
const TELL_LIMIT: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_changed_comes_exactly_once_across_100_crashes() {
    let mut random = seeded("100_crashes");
    let folder = tempfile::Builder::new().prefix("flotilla-renames-").tempdir().expect("a folder").keep();
    eprintln!("the server's folder, kept if this fails: {}", folder.display());
    let mut setup = Setup::new(&folder, &folder.join("data"));
    setup.services = &["all"];
    setup.limits = "snapshot_log = \"1 MiB\"\nmin_free_disk = \"1 MiB\"".into();
    let started = Instant::now();

    let network = Network::default();
    let mut server = setup.start().await;
    network.up(server.port());
    let client = network.wire().client();
    let users = [party::user(&client, "Ada").await, party::user(&client, "Bob").await];
    let made = stream::iter(0..THREADS).map(|_| party::thread(&client, &users));
    let threads: Vec<String> = made.buffer_unordered(16).collect().await;
    let [ada, bob] = &users;
    let ada = client.acting_as(ada).expect("an id");

    let ending = Arc::new(AtomicBool::new(false));
    let choices = StdRng::seed_from_u64(random.random());
    let renaming = tokio::spawn(rename(network.wire().client(), bob.clone(), choices, ending.clone()));
    let (mut crashes, mut in_the_middle) = (0, 0);
    while crashes < CRASHES {
        let moment = Instant::now() + Duration::from_micros(random.random_range(0..80_000));
        // Half of the crashes are aimed at a moment when some threads were told, and some weren't.
        let aimed = random.random_bool(0.5);
        let limit = moment + Duration::from_millis(if aimed { 300 } else { 0 });
        while Instant::now() < limit {
            if aimed && lengths(&ada).await.len() > 1 {
                in_the_middle += 1;
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(!renaming.is_finished(), "the renaming has ended");
        network.down();
        server.kill();
        crashes += 1;
        if crashes % START_CRASHES == 0 {
            let mut unlucky = setup.spawn();
            tokio::time::sleep(Duration::from_micros(random.random_range(5_000..80_000))).await;
            unlucky.kill();
            crashes += 1;
        }
        server = setup.start().await;
        network.up(server.port());
    }
    ending.store(true, Ordering::Release);
    let names = renaming.await.expect("the renaming's end");
    eprintln!("{crashes} crashes, {in_the_middle} aimed, {} names, in {:?}", names.len(), started.elapsed());

    // Two joinings, and each name.
    let all = 2 + names.len() as u64;
    let limit = Instant::now() + TELL_LIMIT;
    loop {
        let lengths = lengths(&ada).await;
        if lengths.first().is_some_and(|least| *least >= all) {
            break;
        }
        assert!(Instant::now() < limit, "of {all} events threads have {lengths:?} after {TELL_LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    eprintln!("all told after {:?}", started.elapsed());
    for thread in &threads {
        assert_eq!(told(&ada, thread).await, names, "thread {thread}");
        let request = ListMembersRequest { thread_id: thread.clone(), ..ListMembersRequest::default() };
        let members = insist(&ada, request).await.members;
        let name = members.iter().find(|member| member.user_id == *bob).map(|member| &member.display_name);
        assert_eq!(name, names.last(), "thread {thread}");
    }
    assert!(in_the_middle >= CRASHES / 10, "too few crashes in the middle: {in_the_middle}");
    server.kill();
    fs::remove_dir_all(&folder).expect("the folder removed");
}

/// Renames a user, one name after the other, until that ends; returns the names.
async fn rename(client: Client, user: String, mut random: StdRng, ending: Arc<AtomicBool>) -> Vec<String> {
    let mut names = Vec::new();
    while !ending.load(Ordering::Acquire) {
        let display_name = format!("Bob {}", names.len());
        let renamed = User { id: user.clone(), display_name: display_name.clone(), ..User::default() };
        let request = UpdateUserRequest { user: Some(renamed), update_mask: None, request_id: request_id() };
        insist(&client, request).await;
        names.push(display_name);
        tokio::time::sleep(Duration::from_millis(random.random_range(0..PAUSE))).await;
    }
    names
}

/// How many events threads have: the different numbers, in order.
async fn lengths(client: &Client) -> Vec<u64> {
    let mut pages = Pages::new(client, ListThreadsRequest::default());
    let mut lengths = Vec::new();
    while let Some(page) = pages.next(1000).await.expect("threads") {
        lengths.extend(page.items.iter().map(|thread| thread.last_sequence));
    }
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}

/// The names that a thread was told of, in order.
async fn told(client: &Client, thread: &str) -> Vec<String> {
    let changed = events(client, thread).await.into_iter().filter_map(|event| match event.kind {
        Some(Kind::MemberChanged(changed)) => changed.member,
        _ => None,
    });
    changed.map(|member| member.display_name).collect()
}
