//! `flotilla top`, without a terminal.

use std::net::TcpListener;

use crate::harness::{Ended, Process, Server, directory, flotilla};

#[test]
fn one_snapshot_tells_of_calls_and_the_log() {
    let dir = directory();
    let server = Server::start(dir.path());
    server.json(&["users", "create", "--email", "ada@example.org"]);
    let health = format!("http://{}", server.health);
    // No terminal here: --once or not is the same.
    for arguments in [&["top", "--once"][..], &["top"]] {
        let mut command = flotilla(arguments);
        let ended = Ended::of(command.args(["--interval", "100ms", "--health-endpoint", &health]));
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let value = |name: &str| {
            let line = ended.stdout.lines().find(|line| line.starts_with(name));
            line.unwrap_or_else(|| panic!("{name} is not in\n{}", ended.stdout))[14..].to_owned()
        };
        assert_eq!(value("server"), server.health.to_string());
        assert!(value("state").starts_with("ready, leads, up "), "{}", ended.stdout);
        assert!(value("memory").ends_with("MiB") && value("cpu").ends_with('%'), "{}", ended.stdout);
        assert_eq!((value("waiting"), value("feed lag")), ("0 of 4096".to_owned(), "0".to_owned()));
        assert!(ended.stdout.contains("CreateUser"), "{}", ended.stdout);
        assert!(!ended.stdout.contains('\u{1b}'), "{}", ended.stdout);
    }
}

#[test]
fn calls_made_meanwhile_are_counted_a_second() {
    let dir = directory();
    let server = Server::start(dir.path());
    let mut command = flotilla(&["top", "--once", "--interval", "5s", "--health-endpoint"]);
    let mut top = Process::start(command.arg(server.health.to_string()));
    // As many as it takes: it may not have looked for the first time yet.
    let mut created = 0;
    while !top.lines().iter().any(|line| line.starts_with("writes/s")) {
        server.json(&["users", "create", "--email", &format!("{created}@example.org")]);
        created += 1;
    }
    let line = top.stdout("the writes", |line| line.starts_with("writes/s"));
    assert!(line[14..].trim().parse::<f64>().unwrap() > 0.0, "{line}");
    assert_eq!(top.wait().code(), Some(0));
}

#[test]
fn a_server_that_is_away_is_told_with_its_address() {
    // Nobody listens on a port that was just given back.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ended = Ended::of(flotilla(&["top", "--once", "--health-endpoint"]).arg(address.to_string()));
    assert_eq!(ended.code, Some(69), "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("http://{address}")), "{}", ended.stderr);
    let ended = Ended::of(&mut flotilla(&["top", "--interval", "1ms"]));
    assert_eq!(ended.code, Some(64), "{}", ended.stderr);
}
