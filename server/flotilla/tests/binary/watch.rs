//! `users watch` and `records watch`: no gap, no duplicate, whatever happens to the server.

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Process, Server, directory, until};

/// The value at a JSON pointer of each line that has it.
fn values(process: &Process, pointer: &str) -> Vec<String> {
    let lines = process.lines();
    let parsed = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    parsed.filter_map(|line| line.pointer(pointer).and_then(Value::as_str).map(str::to_owned)).collect()
}

fn create(server: &Server, name: &str) {
    server.json(&["users", "create", "--email", &format!("{name}@example.org")]);
}

const EMAIL: &str = "/event/user/email";

/// Creates users until the watcher sees one: from then on it misses none.
fn wait_until_it_watches(server: &Server, watcher: &Process) -> Vec<String> {
    let mut created = 0;
    until("the watcher watches", || {
        create(server, &format!("first-{created}"));
        created += 1;
        !values(watcher, EMAIL).is_empty()
    });
    until("the watcher has caught up", || {
        let last = format!("first-{}@example.org", created - 1);
        values(watcher, EMAIL).last() == Some(&last)
    });
    values(watcher, EMAIL)
}

#[test]
fn a_watcher_resumes_across_kill_9_without_gap_or_duplicate() {
    let dir = directory();
    let mut server = Server::start(dir.path());
    let watcher = Process::start(&mut server.command(&["users", "watch"]));
    let mut expected = wait_until_it_watches(&server, &watcher);
    for round in 0..3 {
        let api = server.api;
        // Dropping a server kills it without a word.
        drop(server);
        server = Server::start_at(dir.path(), api);
        for n in 0..5 {
            create(&server, &format!("round-{round}-{n}"));
            expected.push(format!("round-{round}-{n}@example.org"));
        }
    }
    until("all events have come", || values(&watcher, EMAIL).len() >= expected.len());
    assert_eq!(values(&watcher, EMAIL), expected);
}

#[test]
fn a_watcher_that_was_stopped_goes_on_from_its_file() {
    let dir = directory();
    let server = Server::start(dir.path());
    let file = dir.path().join("place");
    let watch = ["users", "watch", "--cursor-file", file.to_str().unwrap()];
    let mut first = Process::start(&mut server.command(&watch));
    let before = wait_until_it_watches(&server, &first);
    first.signal(Signal::INT);
    assert_eq!(first.wait().code(), Some(0));
    assert_eq!(values(&first, EMAIL), before);

    create(&server, "meanwhile");
    let second = Process::start(&mut server.command(&watch));
    second.stdout("what happened meanwhile", |line| line.contains("meanwhile@example.org"));
    assert_eq!(values(&second, EMAIL), ["meanwhile@example.org"]);
}

#[test]
fn a_watcher_with_a_place_of_another_history_is_told_and_shown_everything() {
    let dir = directory();
    let server = Server::start(dir.path());
    create(&server, "ada");
    let watch = ["users", "watch", "--from", "01J9ZC5W1V8N3E6D4K2R7T0Q9B:7"];
    let watcher = Process::start(&mut server.command(&watch));
    watcher.stdout("the reset", |line| line.contains("HISTORY_CHANGED"));
    watcher.stdout("what there is", |line| line.contains("snapshot") && line.contains("ada@example.org"));
    watcher.stderr("the end of the list", |line| line.contains("listed 1, going on"));
    create(&server, "grace");
    watcher.stdout("what came after", |line| line.contains("event") && line.contains("grace@example.org"));
    assert_eq!(values(&watcher, EMAIL), ["grace@example.org"]);
}

#[test]
fn a_watcher_of_some_tables_hears_of_no_other() {
    let dir = directory();
    let server = Server::start(dir.path());
    let watcher = Process::start(&mut server.command(&["records", "watch", "boats"]));
    until("the watcher watches", || {
        server.json(&["records", "put", "cars", "mini", "{}"]);
        server.json(&["records", "put", "boats", "skiff", "{}"]);
        !watcher.lines().is_empty()
    });
    assert!(values(&watcher, "/event/record/table").iter().all(|table| table == "boats"));
}
