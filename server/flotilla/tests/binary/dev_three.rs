//! `flotilla dev` with its cell of three.

use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Ended, PATIENCE, Process, Server, directory, flotilla, until};

/// A `flotilla dev` of three servers, on ports that are free.
struct Dev {
    process: Process,
    endpoints: Vec<String>,
}

impl Dev {
    fn start(dir: &Path, servers: u64) -> Self {
        let mut command = flotilla(&["dev", "--listen", "127.0.0.1:0", "--servers", &servers.to_string(), "--dir"]);
        let process = Process::start(command.arg(dir).env("FLOTILLA_LIMITS_MIN_FREE_DISK", "1MiB"));
        // Of one server the line is another; where a server is, its config says.
        process.stderr("the welcome", |line| line.contains("gRPC, gRPC-Web  http://"));
        let ended = act(dir, &["status"]);
        let status: Value = serde_json::from_str(&ended.stdout).unwrap();
        let address = |server: &Value| server["address"].as_str().unwrap().to_owned();
        let endpoints: Vec<String> = status["servers"].as_array().unwrap().iter().map(address).collect();
        for id in 1..=servers {
            let prefix = format!("{id} | ");
            process.stderr("ready", |line| line.starts_with(&prefix) && line.contains("ready, serving"));
        }
        Self { process, endpoints }
    }

    /// Calls a server by its number.
    fn call(&self, id: usize, arguments: &[&str]) -> Ended {
        Ended::of(flotilla(arguments).env("FLOTILLA_ENDPOINT", &self.endpoints[id - 1]))
    }

    /// The cell as a server sees it.
    fn cell(&self, id: usize) -> Vec<Value> {
        let ended = self.call(id, &["cluster", "status"]);
        let cell: Option<Value> = serde_json::from_str(&ended.stdout).ok();
        cell.and_then(|cell| cell["servers"].as_array().cloned()).unwrap_or_default()
    }

    fn leader(&self, asked: usize) -> Option<usize> {
        let leads = |server: &Value| server["isLeader"].as_bool() == Some(true);
        let servers = self.cell(asked);
        servers.iter().find(|server| leads(server)).and_then(|server| server["id"].as_str()?.parse().ok())
    }

    /// How many vote and are ready.
    fn voters(&self, asked: usize) -> usize {
        let ready = |server: &&Value| server["role"] == "ROLE_VOTER" && server["state"] == "STATE_READY";
        self.cell(asked).iter().filter(ready).count()
    }
}

fn act(dir: &Path, arguments: &[&str]) -> Ended {
    Ended::of(flotilla(&["dev"]).args(arguments).arg("--dir").arg(dir))
}

#[test]
fn what_is_written_at_one_server_is_read_at_the_others() {
    let dir = directory();
    let mut dev = Dev::start(dir.path(), 3);
    until("three vote", || dev.voters(3) == 3);
    let written = dev.call(1, &["users", "create", "--email", "ada@example.org"]);
    assert_eq!(written.code, Some(0), "{}", written.stderr);
    for id in 1..=3 {
        assert!(dev.call(id, &["users", "list"]).stdout.contains("ada@example.org"), "server {id}");
    }
    dev.process.signal(Signal::INT);
    assert_eq!(dev.process.wait().code(), Some(0));
}

#[test]
fn the_leader_is_killed_and_the_others_go_on() {
    let dir = directory();
    let dev = Dev::start(dir.path(), 3);
    until("three vote", || dev.voters(1) == 3);
    let leader = dev.leader(1).unwrap();
    let other = leader % 3 + 1;
    assert_eq!(act(dir.path(), &["kill", &leader.to_string()]).code, Some(0));
    let bound = format!("{}s", PATIENCE.as_secs());
    let written = dev.call(other, &["users", "create", "--email", "ada@example.org", "--timeout", &bound]);
    assert_eq!(written.code, Some(0), "{}", written.stderr);
    assert_ne!(dev.leader(other), Some(leader));
    assert_eq!(act(dir.path(), &["start", &leader.to_string()]).code, Some(0));
    until("it is back", || dev.voters(other) == 3);
    assert!(dev.call(leader, &["users", "list"]).stdout.contains("ada@example.org"));
}

#[test]
fn servers_past_the_voters_come_as_learners_and_leave_by_themselves() {
    let dir = directory();
    let dev = Dev::start(dir.path(), 3);
    until("three vote", || dev.voters(1) == 3);
    let scaled = act(dir.path(), &["scale", "5"]);
    assert_eq!(scaled.code, Some(0), "{}", scaled.stderr);
    // One that is stopped while it starts doesn't leave by itself.
    let ready = |server: &&Value| server["role"] == "ROLE_LEARNER" && server["state"] == "STATE_READY";
    let learners = || dev.cell(1).iter().filter(ready).count();
    until("two learners", || learners() == 2);
    assert_eq!(dev.voters(1), 3);
    assert_eq!(act(dir.path(), &["scale", "3"]).code, Some(0));
    until("they have left", || dev.cell(1).len() == 3);
    let refused = act(dir.path(), &["scale", "2"]);
    assert!(refused.stderr.contains("3 servers vote; fewer would leave"), "{}", refused.stderr);
    // A server that has left comes back.
    assert_eq!(act(dir.path(), &["scale", "4"]).code, Some(0));
    until("one learner", || learners() == 1);
}

#[test]
fn a_cell_of_one_with_data_grows_to_three() {
    let dir = directory();
    let mut dev = Dev::start(dir.path(), 1);
    assert_eq!(dev.call(1, &["users", "create", "--email", "ada@example.org"]).code, Some(0));
    dev.process.signal(Signal::INT);
    assert_eq!(dev.process.wait().code(), Some(0));
    let dev = Dev::start(dir.path(), 3);
    until("three vote", || dev.voters(3) == 3);
    assert!(dev.call(3, &["users", "list"]).stdout.contains("ada@example.org"));
}

#[test]
fn a_wiped_server_comes_back_as_a_new_life_and_votes() {
    let dir = directory();
    let dev = Dev::start(dir.path(), 3);
    until("three vote", || dev.voters(1) == 3);
    assert_eq!(dev.call(1, &["users", "create", "--email", "ada@example.org"]).code, Some(0));
    let wiped = dev.leader(1).unwrap();
    let other = wiped % 3 + 1;
    let life = |asked| {
        let found = dev.cell(asked).into_iter().find(|server| server["id"] == wiped.to_string().as_str());
        found.map(|server| server["incarnation"].clone())
    };
    let former = life(other).unwrap();
    assert_eq!(act(dir.path(), &["kill", &wiped.to_string()]).code, Some(0));
    std::fs::remove_dir_all(dir.path().join("data").join(wiped.to_string())).unwrap();
    assert_eq!(act(dir.path(), &["start", &wiped.to_string()]).code, Some(0));
    until("its new life votes", || dev.voters(other) == 3 && life(other).is_some_and(|life| life != former));
    assert!(dev.call(wiped, &["users", "list"]).stdout.contains("ada@example.org"));
    let checked = dev.call(other, &["check"]);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
}

#[test]
fn a_leader_that_is_removed_hands_over_first() {
    let dir = directory();
    let dev = Dev::start(dir.path(), 3);
    until("three vote", || dev.voters(1) == 3);
    let leader = dev.leader(1).unwrap();
    let other = leader % 3 + 1;
    let removed = dev.call(other, &["cluster", "remove", &leader.to_string()]);
    assert_eq!(removed.code, Some(0), "{}", removed.stderr);
    assert_eq!(dev.voters(other), 2);
    assert_ne!(dev.leader(other), Some(leader));
    let written = dev.call(other, &["users", "create", "--email", "ada@example.org"]);
    assert_eq!(written.code, Some(0), "{}", written.stderr);
    let nobody = dev.call(other, &["cluster", "remove", "9"]);
    assert!(nobody.stderr.contains("SERVER_NOT_FOUND"), "{}", nobody.stderr);
}

#[test]
fn a_lost_majority_is_recovered_from_what_one_server_has_left() {
    let dir = directory();
    let mut dev = Dev::start(dir.path(), 3);
    until("three vote", || dev.voters(3) == 3);
    assert_eq!(dev.call(3, &["users", "create", "--email", "ada@example.org"]).code, Some(0));
    dev.process.signal(Signal::INT);
    assert_eq!(dev.process.wait().code(), Some(0));

    let (left, new) = (dir.path().join("data/3"), dir.path().join("new"));
    let recover = || {
        let mut command = flotilla(&["cluster", "recover", "--from"]);
        Ended::of(command.arg(&left).arg("--data-dir").arg(&new))
    };
    let recovered = recover();
    assert_eq!(recovered.code, Some(0), "{}", recovered.stderr);
    let server = Server::start_with(&new, &["--listen", "127.0.0.1:0", "--set", "cluster.id=3"]);
    assert!(server.run(&["users", "list"]).stdout.contains("ada@example.org"));
    let again = recover();
    assert_eq!(again.code, Some(64), "{}", again.stderr);
}
