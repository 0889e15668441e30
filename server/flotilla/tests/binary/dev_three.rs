//! `flotilla dev` with its cell of three.

use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Ended, PATIENCE, Process, directory, flotilla, until};

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
    let learners = || dev.cell(1).iter().filter(|server| server["role"] == "ROLE_LEARNER").count();
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
