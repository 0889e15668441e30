//! People in threads, on a server that dies again and again: who posts, and devices that follow.
//!
//! # Layout
//!
//! * [`network`]: the way to the server, wherever it is at the moment.
//! * [`poster`], [`subscriber`]: the clients, by Flotilla's own client library.
//! * [`truth`]: what the server has, which all that was told is held against.
//!
//! A test starts a server, tells the network where it is, and lets people do what they do; they hear of a server's end
//! like everybody. [`Party::finish`] holds everything that they saw against the server.

pub(crate) mod network;
pub(crate) mod poster;
pub(crate) mod subscriber;
pub(crate) mod truth;

use std::{collections::HashMap, sync::atomic::Ordering, time::Duration};

use flotilla_client::{Client, Pages, request_id};
use flotilla_proto::{
    threads::v1::{CreateThreadRequest, ListDevicesRequest, Thread},
    users::v1::{CreateUserRequest, User},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use network::{Network, Wire, insist};
use poster::Board;
use subscriber::{Counts, Keeps, Plan, Subscriber};
use truth::{Place, Truth};

/// How long devices may take to get the rest when nothing goes wrong any more. A client that failed often waits up to
/// 15 seconds before it tries again.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(40);

/// How many of what.
pub(crate) struct Sizes {
    pub(crate) users: usize,
    pub(crate) devices_of_user: usize,
    pub(crate) threads: usize,
    pub(crate) members: usize,
    pub(crate) posters: usize,
    /// The bounds of the time between two mishaps of a device, in milliseconds.
    pub(crate) mishaps: (u64, u64),
}

/// Everybody.
pub(crate) struct Party {
    pub(crate) network: Network,
    sizes: Sizes,
    users: Vec<String>,
    board: Board,
    control: Client,
    posting: Vec<JoinHandle<()>>,
    subscribers: Vec<Subscriber>,
    calm: watch::Sender<bool>,
    random: StdRng,
}

impl Party {
    /// Users and threads are made on the server that the network leads to; nobody does anything yet.
    pub(crate) async fn gather(network: Network, sizes: Sizes, seed: u64) -> Self {
        let control = network.wire().client();
        let mut users = Vec::new();
        for number in 0..sizes.users {
            users.push(user(&control, &format!("user {number}")).await);
        }
        let mut party = Self {
            network,
            sizes,
            users,
            board: Board::default(),
            control,
            posting: Vec::new(),
            subscribers: Vec::new(),
            calm: watch::Sender::new(false),
            random: StdRng::seed_from_u64(seed),
        };
        for _ in 0..party.sizes.threads {
            party.add_thread().await;
        }
        party
    }

    /// One more thread, of some of the users.
    pub(crate) async fn add_thread(&mut self) {
        let users: Vec<String> = self.users.choose_multiple(&mut self.random, self.sizes.members).cloned().collect();
        let thread = thread(&self.control, &users).await;
        self.board.add_thread(Place { thread, users });
    }

    /// Everybody begins: half of the devices over a few shared connections, half over their own; some by cursors, some
    /// by acknowledgements; some follow all threads, some a few.
    pub(crate) fn begin(&mut self) {
        let shared: Vec<Wire> = (0..self.sizes.users.div_ceil(4)).map(|_| self.network.wire()).collect();
        let places = self.board.threads();
        for (position, user) in self.users.iter().enumerate() {
            for device in 0..self.sizes.devices_of_user {
                let number = position + device;
                let wire = match number % 2 {
                    0 => self.network.wire(),
                    _ => shared.choose(&mut self.random).expect("a connection").clone(),
                };
                let own: Vec<String> = places
                    .iter()
                    .filter(|place| place.users.contains(user))
                    .map(|place| place.thread.clone())
                    .collect();
                let some: Vec<String> = own.choose_multiple(&mut self.random, 2).cloned().collect();
                let plan = Plan {
                    user: user.clone(),
                    device: format!("device-{position}-{device}"),
                    named: (device % 3 == 2 && !some.is_empty()).then_some(some),
                    keeps: if (number / 2) % 2 == 0 { Keeps::Cursors } else { Keeps::Acks },
                    mishaps: self.sizes.mishaps,
                };
                let random = StdRng::seed_from_u64(self.random.random());
                self.subscribers.push(Subscriber::start(plan, wire, random, self.calm.subscribe()));
            }
        }
        for number in 0..self.sizes.posters {
            let (client, random) = (self.network.wire().client(), StdRng::seed_from_u64(self.random.random()));
            self.posting.push(tokio::spawn(self.board.clone().post(number, client, random)));
        }
    }

    /// Fails as soon as a subscriber or poster has.
    pub(crate) async fn is_well(&mut self) {
        for subscriber in &mut self.subscribers {
            subscriber.is_well().await;
        }
        for posting in &mut self.posting {
            if posting.is_finished() {
                posting.await.expect("a poster that goes on");
            }
        }
    }

    /// What a server has on what a power cut at some moment left: all that anybody had heard of by then.
    pub(crate) async fn verify_branch(&self, client: &Client, moment: u64) {
        let truth = Truth::read(client, &self.board.threads()).await;
        self.board.with_posted(|posted| truth.has_posted(posted, moment));
        self.subscribers.iter().for_each(|subscriber| subscriber.verify(&truth, moment));
        self.verify_stored(client, moment).await;
    }

    /// The posters end, the devices get the rest undisturbed, and everything is held against everything.
    pub(crate) async fn finish(mut self) -> Totals {
        self.board.ending.store(true, Ordering::Release);
        self.calm.send_replace(true);
        for posting in std::mem::take(&mut self.posting) {
            posting.await.expect("a poster's end");
        }
        let truth = Truth::read(&self.control, &self.board.threads()).await;
        let limit = Instant::now() + CATCH_UP_LIMIT;
        while let Some(slow) = self.subscribers.iter().find(|subscriber| !subscriber.has_all(&truth)) {
            let lacks = slow.lacks(&truth);
            self.is_well().await;
            assert!(Instant::now() < limit, "not within {CATCH_UP_LIMIT:?}: {lacks}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.is_well().await;
        let mut totals = Totals::default();
        for subscriber in &self.subscribers {
            subscriber.verify_all(&truth);
            totals.add(subscriber.counts());
        }
        self.board.with_posted(|posted| {
            truth.has_posted(posted, u64::MAX);
            totals.acknowledged = posted.len();
        });
        self.verify_stored(&self.control, u64::MAX).await;
        totals
    }

    /// What devices had acknowledged by a moment is stored.
    async fn verify_stored(&self, client: &Client, moment: u64) {
        let mut known: HashMap<(String, String), u64> = HashMap::new();
        for Place { thread, users } in self.board.threads() {
            let client = client.acting_as(&users[0]).expect("an id");
            let mut pages = Pages::new(&client, ListDevicesRequest { thread_id: thread.clone(), ..Default::default() });
            while let Some(page) = pages.next(1000).await.expect("devices") {
                known.extend(page.items.into_iter().map(|seen| ((seen.device, thread.clone()), seen.sequence)));
            }
        }
        for (device, thread, sequence) in self.subscribers.iter().flat_map(|subscriber| subscriber.stored(moment)) {
            let stored = known.get(&(device.clone(), thread.clone())).copied();
            assert!(stored >= Some(sequence), "{device} acknowledged {sequence} of {thread}; stored is {stored:?}");
        }
    }
}

/// What a test says at its end.
#[derive(Debug, Default)]
#[allow(dead_code, reason = "they are printed")]
pub(crate) struct Totals {
    pub(crate) acknowledged: usize,
    pub(crate) counts: Counts,
}

impl Totals {
    fn add(&mut self, counts: Counts) {
        self.counts.events += counts.events;
        self.counts.again += counts.again;
        self.counts.resumed += counts.resumed;
        self.counts.cut += counts.cut;
        self.counts.restarted += counts.restarted;
    }
}

/// Creates a user of this name.
pub(crate) async fn user(client: &Client, name: &str) -> String {
    let email = format!("{}@example.org", request_id());
    let user = Some(User { email, display_name: name.to_owned(), ..User::default() });
    insist(client, CreateUserRequest { user, request_id: request_id() }).await.id
}

/// Creates a thread of these users.
pub(crate) async fn thread(client: &Client, users: &[String]) -> String {
    let thread = Some(Thread { display_name: "harbour".to_owned(), ..Thread::default() });
    let request = CreateThreadRequest { thread, member_user_ids: users[1..].to_vec(), request_id: request_id() };
    insist(&client.acting_as(&users[0]).expect("an id"), request).await.id
}
