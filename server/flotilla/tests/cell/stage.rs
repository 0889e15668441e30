//! What every scenario has: a cell at work under clients, watchers and people in threads; and at its end, when
//! everything is healed, what all of them saw is held against what every server has.

use std::{collections::BTreeMap, fs, path::PathBuf, pin::Pin, time::Duration};

use flotilla_proto::{
    feed::v1::Cursor,
    records::v1::{GetRecordRequest, ListRecordsRequest, PutRecordRequest},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::Instant;
use tonic::{Code, transport::Endpoint};

use crate::{
    cell::{Cell, LIMIT, Plan, timed},
    clients::{LEDGER, Load, REGISTERS, passes, records, value_of},
    feed,
    history::History,
    linearizability::{Action, Answer, Operation},
    links::Links,
    network::{Network, address},
    party::{Party, Sizes, network::Network as Ways},
};

/// Few, because the machine is shared by all servers.
const PEOPLE: Sizes = Sizes { users: 5, devices_of_user: 2, threads: 3, members: 4, posters: 3, mishaps: (500, 4_000) };
const STEP: Duration = Duration::from_millis(50);
/// Clients' numbers from here on are of reads that the stage does itself.
const OWN: usize = 1_000;

/// One scenario, and what it wants.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) plan: Plan,
    pub(crate) play: for<'a> fn(&'a mut Stage) -> Playing<'a>,
}

/// A scenario on its way.
pub(crate) type Playing<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Where a scenario is played.
pub(crate) struct Stage {
    pub(crate) cell: Cell,
    pub(crate) load: Load,
    /// Those of a plan with delays.
    pub(crate) links: Option<Links>,
    pub(crate) random: StdRng,
    party: Party,
    /// Where the feed was before the load.
    from: Cursor,
}

impl Scenario {
    /// Plays it with the choices of a seed.
    pub(crate) fn run(&self, seed: u64) {
        eprintln!("seed {seed}: SEED={seed} cargo test -p flotilla --test cell {}", self.name);
        let folder = tempfile::Builder::new().prefix("flotilla-cell-").tempdir().expect("a folder").keep();
        eprintln!("the servers' folder, kept if this fails: {}", folder.display());
        std::thread::scope(|threads| {
            // A thread for it alone: it is in the clients' namespace, and the servers end with it.
            let played = threads.spawn(|| self.play(seed, folder.clone())).join();
            played.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
        fs::remove_dir_all(&folder).expect("the folder removed");
    }

    fn play(&self, seed: u64, folder: PathBuf) {
        let network = Network::new(self.plan.servers);
        let enter = network.entrance();
        enter();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .on_thread_start(enter)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let mut stage = Stage::set(network, self.plan, folder, seed).await;
            stage.work(Duration::from_secs(1)).await;
            (self.play)(&mut stage).await;
            stage.finish().await;
        });
    }
}

impl Stage {
    async fn set(mut network: Network, plan: Plan, folder: PathBuf, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let links = match plan.delays {
            true => Some(Links::between(&mut network, plan.servers).await),
            false => None,
        };
        let mut cell = Cell::new(network, plan, &folder);
        cell.start_all().await;
        let servers = cell.servers();
        let from = feed::place(cell.leader().await).await;
        let ways = Ways::over(servers.iter().map(|server| address(*server)).collect());
        let mut party = Party::gather(ways, PEOPLE, random.random()).await;
        party.begin();
        let load = Load::start(&servers, &mut random);
        cell.say("clients are at work");
        Self { cell, load, links, random, party, from }
    }

    /// Lets everybody work for a time; fails as soon as anybody has.
    pub(crate) async fn work(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.is_well().await;
            tokio::time::sleep(STEP).await;
        }
    }

    /// Lets everybody work until so many more changes are acknowledged.
    pub(crate) async fn progress(&mut self, changes: usize) {
        let (from, limit) = (self.history().now(), Instant::now() + LIMIT);
        while self.history().acknowledged(from, u64::MAX) < changes {
            self.is_well().await;
            assert!(Instant::now() < limit, "fewer than {changes} changes were acknowledged within {LIMIT:?}");
            tokio::time::sleep(STEP).await;
        }
    }

    /// What clients know.
    pub(crate) fn history(&self) -> &History {
        &self.load.history
    }

    async fn is_well(&mut self) {
        self.cell.all_alive();
        self.load.is_well().await;
        self.party.is_well().await;
    }

    /// Everything is healed, everybody ends, and everything that was seen is held against everything that is there.
    async fn finish(mut self) {
        self.cell.heal().await;
        self.progress(1).await;
        self.load.stop().await;
        let totals = self.party.finish().await;
        let (servers, history) = (self.cell.servers(), self.load.history.clone());
        let last = mark(self.cell.leader().await).await;
        let revision = self.cell.all_equal().await;
        self.cell.say(&format!("all have applied revision {revision}: {}; {totals:?}", history.summary()));
        self.cell.check().await;
        for server in &servers {
            read_all(*server, &history).await;
            has_created(*server, &history).await;
        }
        history.is_linearizable();
        feed::hold(&servers, &self.from, &last, &history).await;
        for server in servers {
            self.cell.stop(server).await;
        }
    }
}

/// Reads that were sent to a server before it could answer.
pub(crate) struct Probe {
    server: u64,
    client: flotilla_proto::records::v1::records_service_client::RecordsServiceClient<tonic::transport::Channel>,
}

impl Probe {
    /// A connection that stays, whatever happens to the server's process.
    pub(crate) async fn connect(server: u64) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{}", address(server))).expect("an address");
        let channel = endpoint.connect().await.expect("a connection");
        Self { server, client: flotilla_proto::records::v1::records_service_client::RecordsServiceClient::new(channel) }
    }

    /// Sends a read of every register, calls `wake` when they are under way, and records what is answered: the server
    /// must not tell what was there when it fell asleep.
    pub(crate) async fn read(&self, history: &History, wake: impl FnOnce()) -> usize {
        let mut reads = tokio::task::JoinSet::new();
        for register in history.registers() {
            let (mut client, invoked) = (self.client.clone(), history.now());
            let message = GetRecordRequest { table: REGISTERS.into(), id: register.clone() };
            reads.spawn(async move { (register, invoked, client.get_record(timed(message, LIMIT / 4)).await) });
        }
        tokio::time::sleep(STEP).await;
        wake();
        let (mut answered, count) = (0, reads.len());
        while let Some(read) = reads.join_next().await {
            let (register, invoked, answer) = read.expect("a read's end");
            let seen = match answer {
                Ok(record) => Some(value_of(record.get_ref()).0),
                Err(status) if status.code() == Code::NotFound => None,
                Err(status) => {
                    passes(&status);
                    continue;
                }
            };
            answered += 1;
            // Each is a client of its own.
            let client = OWN * (self.server as usize + 10) + answered;
            let answer = Some((history.now(), Answer::Value(seen)));
            history.record(&register, Operation { client, action: Action::Read, invoked, answer });
        }
        eprintln!("of {count} reads that were sent to server {} while it slept, {answered} were answered", self.server);
        answered
    }
}

/// A change after all others; its request id.
async fn mark(server: u64) -> String {
    let request_id = ulid::Ulid::new().to_string();
    let put = PutRecordRequest { table: "mark".into(), id: "end".into(), request_id, ..PutRecordRequest::default() };
    let limit = Instant::now() + LIMIT;
    while let Err(status) = records(server).put_record(timed(put.clone(), LIMIT / 10)).await {
        passes(&status);
        assert!(Instant::now() < limit, "the last change is not acknowledged within {LIMIT:?}: {status:?}");
        tokio::time::sleep(STEP).await;
    }
    put.request_id
}

/// What a server has in the registers is part of the history.
async fn read_all(server: u64, history: &History) {
    let mut client = records(server);
    for register in history.registers() {
        let message = GetRecordRequest { table: REGISTERS.into(), id: register.clone() };
        let invoked = history.now();
        let value = match client.get_record(timed(message, LIMIT / 4)).await {
            Ok(record) => Some(value_of(record.get_ref()).0),
            Err(status) if status.code() == Code::NotFound => None,
            Err(status) => panic!("server {server} doesn't tell {register}: {status:?}"),
        };
        let answer = Some((history.now(), Answer::Value(value)));
        let client = OWN + server as usize;
        history.record(&register, Operation { client, action: Action::Read, invoked, answer });
    }
}

/// A server has every record that was acknowledged, as it was, and none that nobody asked for.
async fn has_created(server: u64, history: &History) {
    let (mut client, mut found) = (records(server), BTreeMap::new());
    let mut request = ListRecordsRequest { table: LEDGER.into(), page_size: 500, ..ListRecordsRequest::default() };
    loop {
        let page = client.list_records(timed(request.clone(), LIMIT / 4)).await.expect("the ledger").into_inner();
        found.extend(page.records.into_iter().map(|record| (record.id, record.etag)));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    for created in history.created() {
        let etag = found.remove(&created.id);
        assert!(
            created.etag.is_none() || created.etag == etag,
            "{created:?} was acknowledged, and server {server} has it with etag {etag:?}"
        );
    }
    assert!(found.is_empty(), "server {server} has what nobody created: {found:?}");
}
