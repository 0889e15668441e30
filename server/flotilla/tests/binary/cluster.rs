//! `flotilla cluster …`: against a real server of its own, and against a cell that answers as three
//! would.

use flotilla_proto::cluster::v1::{Role, State};
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    fake_cell::FakeCell,
    harness::{Ended, Process, Server, directory, flotilla},
};

/// Runs a command line beside the fake cell.
async fn run(endpoint: &str, arguments: &[&str]) -> Ended {
    let mut command = flotilla(arguments);
    command.env("FLOTILLA_ENDPOINT", endpoint);
    tokio::task::spawn_blocking(move || Ended::of(&mut command)).await.unwrap()
}

#[test]
fn a_server_alone_is_a_cell_that_it_leads() {
    let dir = directory();
    let server = Server::start(dir.path());
    let ended = server.run(&["cluster", "status", "--output", "table"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.starts_with("ID  ADDRESS"), "{}", ended.stdout);
    assert!(ended.stdout.contains("voter  leads   ready"), "{}", ended.stdout);
    assert!(ended.stderr.contains("cell flotilla: 1 vote; as server 1"), "{}", ended.stderr);
    let cell = server.json(&["cluster", "status"]);
    assert_eq!((cell["cell"].as_str(), cell["servers"][0]["isLeader"].as_bool()), (Some("flotilla"), Some(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_every_server_and_names_what_is_wrong() {
    let (cell, endpoint) = FakeCell::serve().await;
    cell.with(|cell| cell.servers[2].state = State::Unreachable.into());
    let ended = run(&endpoint, &["cluster", "status", "--output", "table"]).await;
    assert_eq!((ended.code, ended.stdout.lines().count()), (Some(0), 4), "{}", ended.stdout);
    assert!(ended.stderr.contains("cell fake: 3 vote; as server 2"), "{}", ended.stderr);
    assert!(ended.stderr.contains("server 3 at 10.0.0.3:7400 doesn't answer"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_what_happens_line_by_line_until_a_signal() {
    let (_cell, endpoint) = FakeCell::serve().await;
    let mut command = flotilla(&["cluster", "status", "--watch", "--output", "table"]);
    let mut watch = Process::start(command.env("FLOTILLA_ENDPOINT", &endpoint));
    let ended = tokio::task::spawn_blocking(move || {
        watch.stdout("server 3", |line| line.contains("present  server 3 at 10.0.0.3:7400: voter, ready, term 7"));
        watch.stdout("the new leader", |line| line.contains("leader changed  server 2") && line.contains("term 8"));
        watch.signal(Signal::INT);
        watch.wait().code()
    });
    assert_eq!(ended.await.unwrap(), Some(0));
    let mut command = flotilla(&["cluster", "status", "--watch"]);
    let watch = Process::start(command.env("FLOTILLA_ENDPOINT", &endpoint));
    let line = tokio::task::spawn_blocking(move || watch.stdout("an event", |line| line.contains("LEADER_CHANGED")));
    let event: Value = serde_json::from_str(&line.await.unwrap()).unwrap();
    assert_eq!(event["event"]["server"]["id"], "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_added_server_is_waited_for_until_it_votes() {
    let (cell, endpoint) = FakeCell::serve().await;
    let ended = run(&endpoint, &["cluster", "add", "4", "10.0.0.4:7400"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("server 4 votes") && ended.stderr.contains("try: "), "{}", ended.stderr);
    let server: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((server["id"].as_str(), server["role"].as_str()), (Some("4"), Some("ROLE_VOTER")));
    cell.with(|cell| {
        let request = &cell.added[0];
        assert_eq!((request.id, request.learner, request.request_id.is_empty()), (4, false, false));
        assert_eq!(cell.servers[3].role(), Role::Voter);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_not_caught_up_in_time_is_told_as_such() {
    let (cell, endpoint) = FakeCell::serve().await;
    cell.with(|cell| cell.stuck = true);
    let ended = run(&endpoint, &["cluster", "add", "4", "10.0.0.4:7400", "--timeout", "1s"]).await;
    assert_eq!(ended.code, Some(69), "{}", ended.stderr);
    assert!(ended.stderr.contains("doesn't vote yet after 1s") && ended.stderr.contains("--watch"), "{}", ended.stderr);
    let ended = run(&endpoint, &["cluster", "add", "5", "10.0.0.5:7400", "--learner", "--timeout", "1s"]).await;
    assert!(ended.stderr.contains("it has not caught up after 1s"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_transferring_and_forming_ask_for_what_was_said() {
    let (cell, endpoint) = FakeCell::serve().await;
    let ended = run(&endpoint, &["cluster", "remove", "2"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let ended = run(&endpoint, &["cluster", "form", "--without", "3,4", "--output", "table"]).await;
    assert!(ended.stdout.contains("the voters are 1, 2"), "{}", ended.stdout);
    cell.with(|cell| {
        assert_eq!((cell.removed[0].id, &cell.formed[0].without), (2, &vec![3, 4]));
    });
    let ended = run(&endpoint, &["cluster", "transfer", "3", "--output", "table"]).await;
    assert!(ended.stdout.contains("server 3 leads, in term 8"), "{}", ended.stdout);
    assert_eq!(run(&endpoint, &["cluster", "transfer", "4"]).await.code, Some(1));
}

#[test]
fn what_no_server_could_be_is_refused_before_one_is_asked() {
    for arguments in [
        &["cluster", "add", "0", "pi:7400"][..],
        &["cluster", "add", "4", "pi"],
        &["cluster", "remove", "two"],
        &["cluster", "form", "--without", "0"],
    ] {
        let ended = Ended::of(&mut flotilla(arguments));
        assert_eq!(ended.code, Some(64), "{}", ended.stderr);
    }
}
