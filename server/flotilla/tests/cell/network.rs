//! A network for one cell: each server in a network namespace of its own, clients in another, all on one bridge in yet
//! another, so that the host's addresses and firewall have no part in it.
//!
//! A namespace lives as long as a process that holds it, and that ends when this one does, however it ends: nothing has
//! names, nothing is left behind, and runs don't meet. Faults are rules of nftables in the servers' namespaces; a delay
//! is made by a proxy ([`crate::links`]) that such a rule leads connections to, so that servers know nothing of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::File,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// The port of gRPC on every server.
pub(crate) const PORT: u16 = 7400;
/// Where the clients' namespace is.
const CLIENTS: u8 = 200;

/// A network namespace and a mount namespace.
pub(crate) struct Space {
    holder: Child,
}

/// The whole.
pub(crate) struct Network {
    /// The bridge lives as long as this.
    _bridge: Space,
    clients: Space,
    nodes: BTreeMap<u64, Node>,
}

struct Node {
    space: Space,
    faults: Faults,
}

/// What goes wrong at a server's end of its links to the others.
#[derive(Debug, Default, Clone)]
struct Faults {
    /// Packets from these are dropped,
    from: BTreeSet<u64>,
    /// and packets to these.
    to: BTreeSet<u64>,
    /// So many of a hundred packets to and from any other are dropped.
    loss: u8,
    /// Connections to each other server lead here instead.
    detours: BTreeMap<u64, SocketAddr>,
}

/// Where a server listens.
pub(crate) fn address(server: u64) -> SocketAddr {
    SocketAddr::from((host(server as u8), PORT))
}

/// Where a program of the clients' namespace can listen.
pub(crate) fn clients_host() -> Ipv4Addr {
    host(CLIENTS)
}

fn host(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

/// Why there can't be such a network here; none: there can.
pub(crate) fn missing() -> Option<&'static str> {
    if !cfg!(target_os = "linux") {
        return Some("network namespaces are Linux's");
    }
    (!rustix::process::geteuid().is_root()).then_some("network namespaces need root")
}

impl Network {
    /// A network of so many servers, numbered from 1, and of clients.
    pub(crate) fn new(servers: u64) -> Self {
        let bridge = Space::new();
        bridge.run("ip", &["link", "add", "bridge", "type", "bridge"]);
        bridge.run("ip", &["link", "set", "bridge", "up"]);
        let clients = Space::new();
        clients.join(&bridge, CLIENTS);
        let mut nodes = BTreeMap::new();
        for server in 1..=servers {
            let space = Space::new();
            space.join(&bridge, server as u8);
            nodes.insert(server, Node { space, faults: Faults::default() });
        }
        Self { _bridge: bridge, clients, nodes }
    }

    /// What a thread calls to be in the clients' namespace from then on.
    pub(crate) fn entrance(&self) -> impl Fn() + Clone + Send + Sync + 'static {
        let namespace = self.clients.namespace();
        move || enter(&namespace)
    }

    /// A server's namespaces.
    pub(crate) fn space(&self, server: u64) -> &Space {
        &self.nodes[&server].space
    }

    /// Nothing goes between these two any more.
    pub(crate) fn cut(&mut self, one: u64, other: u64) {
        self.change(one, |faults| {
            faults.from.insert(other);
            faults.to.insert(other);
        });
    }

    /// Nothing goes between a server and the other servers. Clients reach it.
    pub(crate) fn isolate(&mut self, server: u64) {
        for other in self.others(server) {
            self.cut(server, other);
        }
    }

    /// The others don't hear a server any more, and it hears them.
    pub(crate) fn mute(&mut self, server: u64) {
        let others = self.others(server);
        self.change(server, |faults| faults.to.extend(others));
    }

    /// A server doesn't hear the others any more, and they hear it.
    pub(crate) fn deafen(&mut self, server: u64) {
        let others = self.others(server);
        self.change(server, |faults| faults.from.extend(others));
    }

    /// Of a hundred packets between a server and the others so many are lost, each way.
    pub(crate) fn lose(&mut self, server: u64, of_hundred: u8) {
        self.change(server, |faults| faults.loss = of_hundred);
    }

    /// Connections from a server to another lead elsewhere, if they are made from now on.
    pub(crate) fn divert(&mut self, from: u64, to: u64, proxy: SocketAddr) {
        self.change(from, |faults| _ = faults.detours.insert(to, proxy));
    }

    /// All that was cut or lossy is well. What was diverted stays so.
    pub(crate) fn heal(&mut self) {
        for server in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.change(server, |faults| {
                *faults = Faults { detours: std::mem::take(&mut faults.detours), ..Faults::default() };
            });
        }
    }

    fn others(&self, server: u64) -> Vec<u64> {
        self.nodes.keys().copied().filter(|other| *other != server).collect()
    }

    fn change(&mut self, server: u64, change: impl FnOnce(&mut Faults)) {
        let node = self.nodes.get_mut(&server).expect("a server of this network");
        change(&mut node.faults);
        let rules = node.faults.rules();
        node.space.feed("nft", &["-f", "-"], &rules);
    }
}

impl Faults {
    /// As one change for nft, in place of the former rules.
    fn rules(&self) -> String {
        let hosts = |servers: &BTreeSet<u64>| {
            servers.iter().map(|server| host(*server as u8).to_string()).collect::<Vec<_>>().join(", ")
        };
        let dropped = |side: &str, servers: &BTreeSet<u64>| match servers.is_empty() {
            true => String::new(),
            false => format!("ip {side} {{ {} }} drop\n", hosts(servers)),
        };
        let lost = |side: &str| match self.loss {
            0 => String::new(),
            // Not the packets of clients: they are reached as ever.
            loss => format!("ip {side} != {} numgen random mod 100 < {loss} drop\n", host(CLIENTS)),
        };
        let detours: String = self
            .detours
            .iter()
            .map(|(to, proxy)| {
                format!("ip daddr {} tcp dport {PORT} dnat ip to {}:{}\n", host(*to as u8), proxy.ip(), proxy.port())
            })
            .collect();
        format!(
            "table ip faults\ndelete table ip faults\ntable ip faults {{\n\
             chain detours {{ type nat hook output priority -100;\n{detours}}}\n\
             chain in {{ type filter hook input priority 0;\n{}{}}}\n\
             chain out {{ type filter hook output priority 0;\n{}{}}}\n}}\n",
            dropped("saddr", &self.from),
            lost("saddr"),
            dropped("daddr", &self.to),
            lost("daddr"),
        )
    }
}

impl Space {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "sh", "-c", "echo; exec cat"]);
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut holder = spawned.expect("unshare (Debian: apt-get install util-linux)");
        let mut line = String::new();
        let output = holder.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("a namespace held");
        assert_eq!(line, "\n", "unshare could not make a namespace");
        let space = Self { holder };
        space.run("ip", &["link", "set", "lo", "up"]);
        space
    }

    /// A cable to the bridge, with an address at this end.
    fn join(&self, bridge: &Self, number: u8) {
        let (holder, port) = (self.holder.id().to_string(), format!("port{number}"));
        let address = format!("{}/24", host(number));
        bridge.run("ip", &["link", "add", &port, "type", "veth", "peer", "name", "cable", "netns", &holder]);
        bridge.run("ip", &["link", "set", &port, "master", "bridge", "up"]);
        self.run("ip", &["address", "add", &address, "dev", "cable"]);
        self.run("ip", &["link", "set", "cable", "up"]);
    }

    /// A program of this namespace, which ends when the thread that starts it does. Its process id is the child's.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.holder.id())).args(["--net", "--mount", "--"]);
        command.args(["setpriv", "--pdeathsig", "KILL", "--"]).arg(program);
        command
    }

    /// Runs a tool here; it must succeed.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) {
        self.feed(program, arguments, "");
    }

    fn feed(&self, program: &str, arguments: &[&str], input: &str) {
        let mut command = self.command(tool(program));
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("nsenter (Debian: apt-get install util-linux)");
        child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("its input written");
        let output = child.wait_with_output().expect("its end");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?} failed: {error}\n{input}");
    }

    /// Where a path of this mount namespace is found from outside.
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(path.strip_prefix("/").expect("an absolute path"))
    }

    fn namespace(&self) -> std::sync::Arc<File> {
        let path = format!("/proc/{}/ns/net", self.holder.id());
        std::sync::Arc::new(File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}")))
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[cfg(target_os = "linux")]
fn enter(namespace: &File) {
    use std::os::fd::AsFd;

    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("the namespace entered");
}

#[cfg(not(target_os = "linux"))]
fn enter(_: &File) {
    unreachable!("{:?}", missing());
}

/// A tool, from where `infra/bin/tools` puts it, or installed.
pub(crate) fn tool(name: &str) -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin").join(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let installed = folders.map(|folder| folder.join(name));
    let found = [own].into_iter().chain(installed).find(|program| program.is_file());
    found.unwrap_or_else(|| panic!("{name} is neither in .tools/bin nor in PATH: infra/bin/tools {name}"))
}
