//! `flotilla dev`: a server process of its own, started, acted on and stopped.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Ended, Process, Server, directory, flotilla, until};

/// A `flotilla dev` of one server, on ports that are free.
struct Dev {
    process: Process,
    address: SocketAddr,
}

impl Dev {
    fn start(dir: &Path) -> Self {
        let mut command = flotilla(&["dev", "--servers", "1", "--listen", "127.0.0.1:0", "--dir"]);
        let process = Process::start(command.arg(dir).env("FLOTILLA_LIMITS_MIN_FREE_DISK", "1MiB"));
        let line = process.stderr("the address", |line| line.contains("gRPC, gRPC-Web  http://127.0.0.1:"));
        let address = line.rsplit_once("http://").unwrap().1.parse().unwrap();
        process.stderr("ready", |line| line.starts_with("1 | ") && line.contains("ready, serving"));
        Self { process, address }
    }

    fn call(&self, arguments: &[&str]) -> Ended {
        Ended::of(flotilla(arguments).env("FLOTILLA_ENDPOINT", format!("http://{}", self.address)))
    }

    fn is_reached(&self) -> bool {
        TcpStream::connect(self.address).is_ok()
    }
}

/// `flotilla dev …` beside it.
fn act(dir: &Path, arguments: &[&str]) -> Ended {
    Ended::of(flotilla(&["dev"]).args(arguments).arg("--dir").arg(dir))
}

fn state(dir: &Path) -> String {
    let ended = act(dir, &["status"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let status: Value = serde_json::from_str(&ended.stdout).unwrap();
    status["servers"][0]["state"].as_str().unwrap().to_owned()
}

#[test]
fn dev_says_where_everything_is_and_where_the_data_stays() {
    let dir = directory();
    let mut dev = Dev::start(dir.path());
    dev.process.stderr("the next commands", |line| line.contains("users create --email"));
    dev.process.signal(Signal::INT);
    dev.process.stderr("the server's own stop, once", |line| line.starts_with("1 | ") && line.contains("drained"));
    dev.process.stderr("the last line", |line| line.contains("the data is kept in"));
    assert_eq!(dev.process.wait().code(), Some(0));
    assert!(dir.path().join("data/1/identity.json").exists());
    assert!(!dir.path().join("socket").exists());
}

#[test]
fn a_server_is_killed_started_and_drained_and_keeps_its_data() {
    let dir = directory();
    let dev = Dev::start(dir.path());
    let ada = dev.call(&["users", "create", "--email", "ada@example.org"]);
    assert_eq!(ada.code, Some(0), "{}", ada.stderr);
    let killed = act(dir.path(), &["kill", "1"]);
    assert_eq!(killed.code, Some(0), "{}", killed.stderr);
    assert!(killed.stderr.contains("0 of 1 voters run") && killed.stderr.contains("dev start 1"), "{}", killed.stderr);
    assert_eq!((state(dir.path()).as_str(), dev.is_reached()), ("killed", false));
    assert_eq!(act(dir.path(), &["start", "1"]).code, Some(0));
    until("the user is there again", || dev.call(&["users", "list"]).stdout.contains("ada@example.org"));
    assert_eq!(act(dir.path(), &["drain", "1"]).code, Some(0));
    assert_eq!((state(dir.path()).as_str(), dev.is_reached()), ("stopped", false));
    let refused = act(dir.path(), &["scale", "0"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("1 server votes; none would"), "{}", refused.stderr);
}

#[test]
fn a_server_that_ends_by_itself_is_told_with_the_way_to_start_it() {
    let dir = directory();
    let mut dev = Dev::start(dir.path());
    let ended = act(dir.path(), &["status"]);
    let status: Value = serde_json::from_str(&ended.stdout).unwrap();
    let pid = rustix::process::Pid::from_raw(status["servers"][0]["pid"].as_i64().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    dev.process.stderr("the news", |line| line.contains("server 1 ended by itself, signal 9"));
    dev.process.stderr("how to go on", |line| line.contains("all servers have ended by themselves"));
    assert_eq!(dev.process.wait().code(), Some(74));
}

#[test]
fn no_server_is_left_behind_when_dev_itself_is_killed() {
    let dir = directory();
    let dev = Dev::start(dir.path());
    dev.process.signal(Signal::KILL);
    until("the server has gone", || !dev.is_reached());
    // It stopped well: its lock is free, and its data opens.
    until("the data is free", || {
        fs::File::open(dir.path().join("data/1/lock")).is_ok_and(|lock| lock.try_lock().is_ok())
    });
    drop(Dev::start(dir.path()));
}

#[test]
fn the_data_of_the_former_single_server_becomes_that_of_server_1() {
    let dir = directory();
    let mut former = Server::start(&dir.path().join("data"));
    former.json(&["users", "create", "--email", "ada@example.org"]);
    let refused = act(dir.path(), &["--servers", "1"]);
    assert!(refused.stderr.contains("is in use by process"), "{}", refused.stderr);
    former.process.signal(Signal::TERM);
    former.process.wait();
    let dev = Dev::start(dir.path());
    dev.process.stderr("what was done", |line| line.contains("is server 1's now"));
    let users = dev.call(&["users", "list"]);
    assert!(users.stdout.contains("ada@example.org"), "{}", users.stdout);
}

#[test]
fn two_do_not_run_in_one_place_and_none_is_told_with_the_way_to_start_it() {
    let dir = directory();
    let none = act(dir.path(), &["kill", "1"]);
    assert_eq!(none.code, Some(69));
    assert!(none.stderr.contains("start one with `flotilla dev`"), "{}", none.stderr);
    let _dev = Dev::start(dir.path());
    let second = act(dir.path(), &["--servers", "1", "--listen", "127.0.0.1:0"]);
    assert_eq!(second.code, Some(74));
    assert!(second.stderr.contains("runs already in"), "{}", second.stderr);
    let usage = act(dir.path(), &["--servers", "3", "kill", "1"]);
    assert_eq!(usage.code, Some(64), "{}", usage.stderr);
}
