//! A cell of real servers in their network: started, killed, paused, wiped, and asked how they are.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use flotilla_proto::cluster::v1::{
    CheckRequest, GetServersRequest, Role, Server, State, TransferLeadershipRequest,
    cluster_service_client::ClusterServiceClient,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    machine::Machine,
    network::{Network, address},
};

/// How long a cell may take to be as it is waited for. Twenty elections fit in.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);
/// How long one question to one server may take.
const QUESTION: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);
/// Of a server's log, what is shown when a test fails.
const LINES: usize = 50;

/// Whether what cells say is told at once, not only when a scenario fails.
static TELL_ALL: AtomicBool = AtomicBool::new(false);

/// Tells from now on what cells say.
pub(crate) fn tell_all(all: bool) {
    TELL_ALL.store(all, Ordering::Relaxed);
}

/// What a scenario wants of its cell.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) servers: u64,
    /// Lines of `[cluster]`.
    pub(crate) cluster: &'static str,
    /// Lines of `[limits]`.
    pub(crate) limits: &'static str,
    /// A server whose disk has so many MiB.
    pub(crate) small_disk: Option<(u64, u64)>,
    /// Whether links between servers can be delayed.
    pub(crate) delays: bool,
}

impl Plan {
    pub(crate) const THREE: Self =
        Self { servers: 3, cluster: "", limits: "min_free_disk = \"1 MiB\"", small_disk: None, delays: false };
    /// What runs without replication: the harness is proved with it.
    pub(crate) const ONE: Self = Self { servers: 1, ..Self::THREE };
}

/// The servers, and the network they are in.
pub(crate) struct Cell {
    pub(crate) network: Network,
    plan: Plan,
    folder: PathBuf,
    members: BTreeMap<u64, Member>,
    began: Instant,
    /// What was said so far.
    told: Mutex<Vec<String>>,
}

struct Member {
    child: Option<Child>,
    machine: Machine,
    client: ClusterServiceClient<Channel>,
}

impl Cell {
    /// Servers that aren't started, with their configs in a folder. Called in the clients' namespace.
    pub(crate) fn new(network: Network, plan: Plan, folder: &Path) -> Self {
        fs::write(folder.join("secret"), "a-secret-of-this-run-only\n").expect("the secret written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(folder.join("secret"), mode).expect("the secret kept");
        let mut members = BTreeMap::new();
        for server in 1..=plan.servers {
            let own = folder.join(server.to_string());
            fs::create_dir_all(own.join("data")).expect("a folder for a server");
            if let Some((_, size)) = plan.small_disk.filter(|(small, _)| *small == server) {
                let (size, data) = (format!("size={size}m"), own.join("data"));
                let data = data.to_str().expect("a path of UTF-8");
                network.space(server).run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", data]);
            }
            fs::write(own.join("flotilla.toml"), config(plan, folder, server)).expect("the config written");
            let client = ClusterServiceClient::new(channel(server));
            members.insert(server, Member { child: None, machine: Machine::new(&own.join("machine")), client });
        }
        Self { network, plan, folder: folder.to_path_buf(), members, began: Instant::now(), told: Mutex::default() }
    }

    /// The numbers of all servers.
    pub(crate) fn servers(&self) -> Vec<u64> {
        self.members.keys().copied().collect()
    }

    /// Those that run, paused or not.
    fn running(&self) -> Vec<u64> {
        let runs = self.members.iter().filter(|(_, member)| member.child.is_some());
        runs.map(|(server, _)| *server).collect()
    }

    /// All but one.
    pub(crate) fn others(&self, server: u64) -> Vec<u64> {
        self.servers().into_iter().filter(|other| *other != server).collect()
    }

    /// Says what is done, for whoever reads a failure.
    pub(crate) fn say(&self, what: &str) {
        let line = format!("{:7.3} s: {what}", self.began.elapsed().as_secs_f64());
        if TELL_ALL.load(Ordering::Relaxed) {
            eprintln!("{line}");
        }
        self.told.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// A server's clock and disk.
    pub(crate) fn machine(&self, server: u64) -> &Machine {
        &self.members[&server].machine
    }

    /// Starts a server, and doesn't wait.
    pub(crate) fn start(&mut self, server: u64) {
        self.say(&format!("server {server} starts"));
        let own = self.folder.join(server.to_string());
        let log = OpenOptions::new().create(true).append(true).open(own.join("log")).expect("a file for the log");
        let mut command = self.network.space(server).command(env!("CARGO_BIN_EXE_flotilla"));
        command.arg("serve").arg("--config").arg(own.join("flotilla.toml"));
        command.envs(self.members[&server].machine.environment());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let member = self.members.get_mut(&server).expect("a server of this cell");
        assert!(member.child.is_none(), "server {server} runs already");
        member.child = Some(command.spawn().expect("the server started"));
    }

    /// Starts those that don't run, and waits until all are ready.
    pub(crate) async fn start_all(&mut self) {
        for server in self.servers() {
            if self.members[&server].child.is_none() {
                self.start(server);
            }
        }
        self.all_ready().await;
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, server: u64) {
        self.say(&format!("server {server} is killed"));
        let mut child = self.take(server);
        child.kill().expect("killed");
        let status = child.wait().expect("its end");
        assert_eq!(status.signal(), Some(9), "server {server} ended by itself, {status}");
    }

    /// Asks a server to stop, and waits; it must end with success.
    pub(crate) async fn stop(&mut self, server: u64) {
        self.say(&format!("server {server} is asked to stop"));
        self.signal(server, Signal::TERM);
        let mut child = self.take(server);
        let limit = Instant::now() + LIMIT;
        loop {
            if let Some(status) = child.try_wait().expect("the server's state") {
                assert!(status.success(), "server {server} was asked to stop and ended with {status}");
                return self.say(&format!("server {server} has stopped"));
            }
            if Instant::now() > limit {
                let _ = (child.kill(), child.wait());
                panic!("server {server} has not stopped after {LIMIT:?}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Halts a server's process.
    pub(crate) fn pause(&self, server: u64) {
        self.say(&format!("server {server} is paused"));
        self.signal(server, Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn wake(&self, server: u64) {
        self.say(&format!("server {server} wakes"));
        self.signal(server, Signal::CONT);
    }

    /// Removes everything that a server, which doesn't run, had on its disk.
    pub(crate) fn wipe(&self, server: u64) {
        self.say(&format!("server {server} loses its disk"));
        assert!(self.members[&server].child.is_none(), "server {server} runs");
        let data = self.data(server);
        fs::remove_dir_all(&data).expect("the data removed");
        fs::create_dir(&data).expect("an empty folder");
    }

    /// Fills a server's disk to the last byte; drop what this returns to empty it.
    pub(crate) fn fill_disk(&self, server: u64) -> Filling {
        self.say(&format!("the disk of server {server} is full"));
        let path = self.data(server).join("filling");
        let mut zeros = std::io::repeat(0);
        let mut file = File::create(&path).expect("a file");
        let error = std::io::copy(&mut zeros, &mut file).expect_err("a disk without end");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "filling {}: {error}", path.display());
        Filling(path)
    }

    /// A server's data directory, from outside.
    pub(crate) fn data(&self, server: u64) -> PathBuf {
        self.network.space(server).path(&self.folder.join(server.to_string()).join("data"))
    }

    /// What a server says of all servers, if it answers within a second.
    pub(crate) async fn asked(&self, server: u64) -> Result<Vec<Server>, Status> {
        let mut client = self.members[&server].client.clone();
        let answer = client.get_servers(timed(GetServersRequest {}, QUESTION)).await?;
        Ok(answer.into_inner().servers)
    }

    /// What a server says of itself.
    pub(crate) async fn status(&self, server: u64) -> Result<Server, Status> {
        let of_all = self.asked(server).await?;
        let own = of_all.into_iter().find(|other| other.id == server);
        own.ok_or_else(|| Status::unknown(format!("server {server} doesn't name itself")))
    }

    /// The server that leads: of those that say so of themselves, the one of the latest term.
    pub(crate) async fn leader(&self) -> u64 {
        self.leader_of(&self.servers()).await
    }

    /// The one of these that leads, as it says itself; waits for one.
    pub(crate) async fn leader_of(&self, servers: &[u64]) -> u64 {
        let limit = Instant::now() + LIMIT;
        loop {
            let mut answers = Vec::new();
            for server in servers.iter().filter(|server| self.members[server].child.is_some()) {
                answers.push(self.status(*server).await);
            }
            let leaders = answers.iter().flatten().filter(|status| status.is_leader);
            if let Some(leader) = leaders.max_by_key(|status| status.term) {
                return leader.id;
            }
            assert!(Instant::now() < limit, "none of {servers:?} leads after {LIMIT:?}: {answers:#?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One that doesn't lead.
    pub(crate) async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        self.others(leader)[0]
    }

    /// Waits until the leader knows a server as one that votes.
    pub(crate) async fn voter(&self, server: u64) -> Server {
        let limit = Instant::now() + LIMIT;
        loop {
            let servers = self.asked(self.leader().await).await;
            let found = servers.iter().flatten().find(|other| other.id == server && other.role() == Role::Voter);
            if let Some(found) = found {
                return found.clone();
            }
            assert!(Instant::now() < limit, "server {server} doesn't vote after {LIMIT:?}: {servers:#?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Hands leadership to a server, and waits until it leads.
    pub(crate) async fn transfer(&self, to: u64) {
        let limit = Instant::now() + LIMIT;
        loop {
            let request = TransferLeadershipRequest { id: to, request_id: ulid::Ulid::new().to_string() };
            let leader = self.leader().await;
            if leader == to {
                return;
            }
            let mut client = self.members[&leader].client.clone();
            let told = client.transfer_leadership(timed(request, 5 * QUESTION)).await;
            assert!(Instant::now() < limit, "server {to} doesn't lead after {LIMIT:?}: {told:?}");
        }
    }

    /// Waits until every server runs, is ready, and knows the same leader.
    pub(crate) async fn all_ready(&mut self) {
        let limit = Instant::now() + LIMIT;
        loop {
            self.all_alive();
            let mut answers = Vec::new();
            for server in self.servers() {
                answers.push((server, self.asked(server).await));
            }
            let leader = |(server, answer): &(u64, Result<Vec<Server>, Status>)| {
                let servers = answer.as_ref().ok()?;
                let own = servers.iter().find(|other| other.id == *server)?;
                let leads = servers.iter().find(|other| other.is_leader)?;
                (own.state() == State::Ready).then_some(leads.id)
            };
            let leaders: Vec<Option<u64>> = answers.iter().map(leader).collect();
            if leaders[0].is_some() && leaders.iter().all(|leader| *leader == leaders[0]) {
                return self.say(&format!("all are ready, and server {} leads", leaders[0].unwrap_or_default()));
            }
            assert!(Instant::now() < limit, "not all servers are ready after {LIMIT:?}: {answers:#?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until all have applied the same, while nobody writes, and returns that revision.
    pub(crate) async fn all_equal(&mut self) -> u64 {
        let limit = Instant::now() + LIMIT;
        loop {
            self.all_ready().await;
            let mut revisions = BTreeMap::new();
            for server in self.servers() {
                let status = self.status(server).await;
                revisions.insert(server, status.map(|status| status.applied_revision).map_err(|status| status.code()));
            }
            let mut found = revisions.values().flatten();
            let first = found.next().copied();
            if revisions.values().all(|revision| revision.is_ok()) && found.all(|revision| Some(*revision) == first) {
                return first.expect("a server");
            }
            assert!(Instant::now() < limit, "servers have applied different revisions after {LIMIT:?}: {revisions:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Lets every server recompute its hashes at one point of the log; all must be as they should be, and the same.
    pub(crate) async fn check(&self) {
        let limit = Instant::now() + LIMIT;
        let request = CheckRequest { request_id: ulid::Ulid::new().to_string() };
        let report = loop {
            let mut client = self.members[&self.leader().await].client.clone();
            match client.check(timed(request.clone(), LIMIT)).await {
                Ok(report) => break report.into_inner(),
                Err(status) => assert!(Instant::now() < limit, "a check was answered {status:?}"),
            }
            tokio::time::sleep(PAUSE).await;
        };
        let answered = report.servers.iter().filter(|server| server.answered).count();
        assert!(report.ok && answered as u64 == self.plan.servers, "the check found {report:#?}");
    }

    /// A server that ended by itself fails the test.
    pub(crate) fn all_alive(&mut self) {
        for (server, member) in &mut self.members {
            if let Some(child) = &mut member.child {
                let ended = child.try_wait().expect("the server's state");
                assert!(ended.is_none(), "server {server} ended by itself: {ended:?}");
            }
        }
    }

    /// Everything is whole again: links, processes, clocks' and disks' speed. Waits until the servers are ready.
    pub(crate) async fn heal(&mut self) {
        self.say("everything heals");
        self.network.heal();
        for server in self.servers() {
            self.machine(server).slow_disk(Duration::ZERO);
        }
        for server in self.running() {
            self.signal(server, Signal::CONT);
        }
        self.start_all().await;
    }

    fn signal(&self, server: u64, signal: Signal) {
        let child = self.members[&server].child.as_ref().expect("a server that runs");
        kill_process(Pid::from_child(child), signal).expect("a signal sent");
    }

    fn take(&mut self, server: u64) -> Child {
        let member = self.members.get_mut(&server).expect("a server of this cell");
        member.child.take().expect("a server that runs")
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        if std::thread::panicking() && !TELL_ALL.load(Ordering::Relaxed) {
            eprintln!("{}", self.told.lock().unwrap_or_else(PoisonError::into_inner).join("\n"));
        }
        for (server, member) in &mut self.members {
            if let Some(mut child) = member.child.take() {
                // It may be gone already.
                let _ = (child.kill(), child.wait());
            }
            if std::thread::panicking() {
                let log = self.folder.join(server.to_string()).join("log");
                eprintln!("--- server {server}, the end of {}:\n{}", log.display(), tail(&log));
            }
        }
    }
}

/// What keeps a disk full.
pub(crate) struct Filling(PathBuf);

impl Drop for Filling {
    fn drop(&mut self) {
        // Gone with the disk, if that is.
        let _ = fs::remove_file(&self.0);
    }
}

/// A connection to a server, made when it is needed, that notices when nobody is there any more.
pub(crate) fn channel(server: u64) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", address(server))).expect("an address");
    let endpoint = endpoint.connect_timeout(QUESTION).tcp_nodelay(true);
    endpoint.http2_keep_alive_interval(2 * QUESTION).keep_alive_timeout(2 * QUESTION).connect_lazy()
}

/// A request that is given up after a time, by the server and by us.
pub(crate) fn timed<M>(message: M, limit: Duration) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

fn config(plan: Plan, folder: &Path, server: u64) -> String {
    let data = folder.join(server.to_string()).join("data");
    let Plan { servers, cluster, limits, .. } = plan;
    let peers: Vec<String> = (1..=servers).map(|peer| format!("{peer} = \"{}\"", address(peer))).collect();
    let members = match servers {
        1 => String::new(),
        _ => format!(
            "voters = {servers}\npeers = {{ {} }}\nsecret_file = {:?}\n",
            peers.join(", "),
            folder.join("secret")
        ),
    };
    format!(
        "services = [\"all\"]\ndata_dir = {data:?}\nlisten = \"{}\"\nunauthenticated = true\n\n\
         [cluster]\nname = \"chaos\"\nid = {server}\n{members}{cluster}\n\n[limits]\n{limits}\n\n\
         [telemetry]\nlog_format = \"json\"\n",
        address(server)
    )
}

fn tail(log: &Path) -> String {
    let mut text = Vec::new();
    let read = File::open(log).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(64 << 10)))?;
        file.read_to_end(&mut text)
    });
    if let Err(error) = read {
        return format!("(not readable: {error})");
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
