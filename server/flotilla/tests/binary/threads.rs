//! Threads at the command line: who gets what, from where on, and who is told no.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Ended, Process, Server, directory, until};

/// Ada and Bob in a thread.
struct Harbour {
    server: Server,
    ada: String,
    bob: String,
    thread: String,
    dir: TempDir,
}

impl Harbour {
    fn open() -> Self {
        let dir = directory();
        let server = Server::start(dir.path());
        let [ada, bob] = ["Ada", "Bob"].map(|name| user(&server, name));
        let thread = server.json(&["threads", "create", "harbour", "--as", "ada", "--member", "bob"]);
        assert_eq!((&thread["displayName"], &thread["memberCount"]), (&"harbour".into(), &2.into()));
        let thread = thread["id"].as_str().unwrap().to_owned();
        Self { server, ada, bob, thread, dir }
    }

    /// `threads watch`, once it has printed what there is.
    fn watch(&self, user: &str, device: &str) -> Process {
        let watcher = Process::start(&mut self.watching(user, device));
        watcher.stdout("what there is", |line| line.contains("memberJoined"));
        watcher
    }

    fn watching(&self, user: &str, device: &str) -> Command {
        self.server.command(&["threads", "watch", "harbour", "--as", user, "--device", device])
    }

    fn post(&self, user: &str, text: &str) -> u64 {
        number(&self.server.json(&["threads", "post", "harbour", text, "--as", user])["sequence"])
    }

    /// A command that is refused; what it says.
    fn refused(&self, arguments: &[&str]) -> String {
        let ended = self.server.run(arguments);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{arguments:?}: {}", ended.stderr);
        ended.stderr
    }
}

fn user(server: &Server, name: &str) -> String {
    let email = format!("{name}@example.org");
    let user = server.json(&["users", "create", "--email", &email, "--display-name", name]);
    user["id"].as_str().unwrap().to_owned()
}

/// A number of 64 bits, which JSON has as a string.
fn number(value: &Value) -> u64 {
    value.as_str().map_or(0, |text| text.parse().unwrap())
}

/// The events that were printed.
fn events(watcher: &Process) -> Vec<Value> {
    let parsed = watcher.lines().into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
    parsed.filter_map(|line| line.get("event").cloned()).collect()
}

fn sequences(watcher: &Process) -> Vec<u64> {
    events(watcher).iter().map(|event| number(&event["sequence"])).collect()
}

fn texts(watcher: &Process) -> Vec<String> {
    let events = events(watcher).into_iter();
    events.filter_map(|event| event.pointer("/message/text").and_then(Value::as_str).map(str::to_owned)).collect()
}

#[test]
fn every_watcher_has_what_is_posted_and_devices_says_how_far_they_are() {
    let harbour = Harbour::open();
    let server = &harbour.server;
    let watchers =
        [("ada", "laptop"), ("ada", "phone"), ("bob", "phone")].map(|(user, device)| harbour.watch(user, device));
    assert_eq!(harbour.post("bob", "hello"), 3);
    for watcher in &watchers {
        watcher.stdout("the message", |line| line.contains("hello"));
    }
    assert_eq!(watchers.each_ref().map(sequences), [vec![1, 2, 3], vec![1, 2, 3], vec![2, 3]]);

    let devices = || server.json(&["threads", "devices", "harbour", "--as", "bob"])["devices"].clone();
    until("all have acknowledged all", || {
        devices().as_array().unwrap().iter().all(|device| number(&device["sequence"]) == 3)
    });
    let shown: Vec<(String, String, bool)> = devices()
        .as_array()
        .unwrap()
        .iter()
        .map(|device| {
            let text = |name: &str| device[name].as_str().unwrap().to_owned();
            (text("userId"), text("device"), device["connected"] == true && device["connectTime"].is_string())
        })
        .collect();
    let wanted = [(&harbour.ada, "laptop"), (&harbour.ada, "phone"), (&harbour.bob, "phone")];
    let mut wanted = wanted.map(|(user, device)| (user.clone(), device.to_owned(), true));
    wanted.sort();
    assert_eq!(shown, wanted);
    drop(watchers);
    until("nobody is connected", || {
        devices().as_array().unwrap().iter().all(|device| device.get("connected").is_none_or(|is| is == false))
    });
}

#[test]
fn a_watch_that_was_stopped_goes_on_behind_what_it_printed() {
    let harbour = Harbour::open();
    let mut first = harbour.watch("ada", "laptop");
    harbour.post("bob", "one");
    first.stdout("the message", |line| line.contains("one"));
    first.signal(Signal::INT);
    assert_eq!(first.wait().code(), Some(0));
    first.stderr("what the next run does", |line| line.contains("goes on behind what was printed"));

    harbour.post("bob", "two");
    harbour.post("bob", "three");
    let second = Process::start(&mut harbour.watching("ada", "laptop"));
    second.stdout("the last", |line| line.contains("three"));
    assert_eq!(sequences(&second), [4, 5]);
    let other = harbour.watch("ada", "phone");
    other.stdout("the last", |line| line.contains("three"));
    assert_eq!(sequences(&other), [1, 2, 3, 4, 5], "another device has its own place");
}

#[test]
fn a_second_watch_of_a_device_takes_over_and_the_first_is_told_what_to_do() {
    let harbour = Harbour::open();
    let mut first = harbour.watch("ada", "laptop");
    let second = Process::start(&mut harbour.watching("ada", "laptop"));
    assert_eq!(first.wait().code(), Some(1));
    first.stderr("why", |line| line.contains("another subscription of the device \"laptop\" took over"));
    first.stderr("the way out", |line| line.contains("try: --device NAME"));
    harbour.post("bob", "hello");
    second.stdout("the message", |line| line.contains("hello"));
}

#[test]
fn who_is_removed_gets_that_and_nothing_after_it() {
    let harbour = Harbour::open();
    let server = &harbour.server;
    let named = harbour.watch("bob", "phone");
    let all = Process::start(&mut server.command(&["threads", "watch", "--as", "bob", "--device", "laptop"]));
    all.stdout("what there is", |line| line.contains("memberJoined"));
    let removed = server.run(&["threads", "remove", "harbour", "bob", "--as", "ada"]);
    assert_eq!(removed.code, Some(0), "{}", removed.stderr);
    harbour.post("ada", "secret");
    // Comes after it, were it to come.
    let quay = server.json(&["threads", "create", "quay", "--as", "ada", "--member", "bob"]);
    all.stdout("another thread", |line| line.contains(quay["id"].as_str().unwrap()));
    named.stdout("the removal", |line| line.contains("memberLeft"));
    for watcher in [&named, &all] {
        let last = events(watcher).into_iter().rfind(|event| event["threadId"] == harbour.thread.as_str()).unwrap();
        assert_eq!((&last["memberLeft"]["userId"], number(&last["sequence"])), (&harbour.bob.as_str().into(), 3));
        assert_eq!(texts(watcher), [""; 0]);
    }
    let told = harbour.refused(&["threads", "post", &harbour.thread, "let me in", "--as", "bob"]);
    assert!(told.contains("NOT_MEMBER") && told.contains("try: ask a member"), "{told}");
}

#[test]
fn a_watch_goes_on_across_kills_without_gap_or_duplicate() {
    let mut harbour = Harbour::open();
    let watcher = harbour.watch("ada", "laptop");
    let mut expected = Vec::new();
    for round in 0..3 {
        let before = format!("{round} before");
        harbour.post("bob", &before);
        let api = harbour.server.api;
        harbour.server.process.signal(Signal::KILL);
        harbour.server.process.wait();
        harbour.server = Server::start_at(harbour.dir.path(), api);
        let after = format!("{round} after");
        harbour.post("bob", &after);
        expected.extend([before, after]);
    }
    until("all has come", || texts(&watcher).len() >= expected.len());
    assert_eq!(texts(&watcher), expected);
    assert_eq!(sequences(&watcher), (1..=8).collect::<Vec<u64>>());
    watcher.stderr("what happened", |line| line.contains("trying again in"));
    watcher.stderr("that it is over", |line| line.contains("resumed where it broke"));
}

#[test]
fn text_from_stdin_is_posted_without_the_end_of_its_last_line() {
    let harbour = Harbour::open();
    let mut command = harbour.server.command(&["threads", "post", "harbour", "-", "--as", "bob"]);
    let mut post = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    post.stdin.take().unwrap().write_all("two\nlines\n".as_bytes()).unwrap();
    let ended = post.wait_with_output().unwrap();
    assert!(ended.status.success());
    let event: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(event["message"]["text"], "two\nlines");
    let listed =
        harbour.server.json(&["threads", "events", "harbour", "--as", "ada", "--newest-first", "--limit", "1"]);
    assert_eq!(listed["events"][0], event);
}

#[test]
fn strangers_and_what_is_not_there_are_refused_by_reason() {
    let harbour = Harbour::open();
    let Harbour { server, thread, .. } = &harbour;
    let eve = user(server, "Eve");
    let unknown = "01J9ZC5W1V8N3E6D4K2R7T0Q9B";
    for (command, reason) in [
        (&["threads", "get", thread, "--as", "eve"][..], "NOT_MEMBER"),
        (&["threads", "watch", thread, "--as", "eve", "--device", "d"], "NOT_MEMBER"),
        (&["threads", "devices", thread, "--as", "eve"], "NOT_MEMBER"),
        (&["threads", "events", unknown, "--as", "ada"], "THREAD_NOT_FOUND"),
        (&["threads", "watch", unknown, "--as", "ada", "--device", "d"], "THREAD_NOT_FOUND"),
        (&["threads", "add", "harbour", "bob", "--as", "ada"], "MEMBER_EXISTS"),
        (&["threads", "remove", "harbour", &eve, "--as", "ada"], "MEMBER_NOT_FOUND"),
        (&["threads", "add", "harbour", unknown, "--as", "ada"], "USER_NOT_FOUND"),
        (&["threads", "create", "quay", "--as", unknown], "USER_NOT_FOUND"),
        (&["threads", "events", "harbour", "--after", "9", "--as", "ada"], "SEQUENCE_IN_FUTURE"),
        (&["threads", "post", "harbour", "", "--as", "ada"], "INVALID_FIELD"),
        (&["threads", "list"], "CALLER_MISSING"),
    ] {
        let told = harbour.refused(command);
        assert!(told.contains(reason), "{command:?} is answered {told}");
    }
    let misspelt = server.run(&["threads", "get", "habour", "--as", "ada"]);
    assert_eq!(misspelt.code, Some(64));
    assert!(
        misspelt.stderr.contains("none of your threads has this name") && misspelt.stderr.contains(thread.as_str())
    );
}

#[test]
fn a_message_of_more_than_a_mebibyte_is_refused_and_changes_nothing() {
    let harbour = Harbour::open();
    let mut command = harbour.server.command(&["threads", "post", "harbour", "-", "--as", "bob"]);
    let mut post = command.stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    post.stdin.take().unwrap().write_all(&vec![b'x'; (1 << 20) + 1]).unwrap();
    let ended = post.wait_with_output().unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(1) && told.contains("LIMIT_EXCEEDED"), "{told}");
    assert_eq!(harbour.post("bob", "small"), 3);
    let none: Ended = harbour.server.run(&["threads", "events", "harbour", "--after", "3", "--as", "ada"]);
    assert_eq!(serde_json::from_str::<Value>(&none.stdout).unwrap()["events"], Value::Array(Vec::new()));
}
