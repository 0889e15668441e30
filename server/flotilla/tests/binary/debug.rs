//! What an operator asks a running server: what it logs, how it is, which calls were slow.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use serde_json::Value;

use crate::{
    harness::{Ended, Server, directory, flotilla},
    web::get,
};

fn debugging(dir: &std::path::Path) -> Server {
    Server::start_with(dir, &["--listen", "127.0.0.1:0", "--set", "telemetry.debug=true"])
}

/// Puts a body; the status and the answer.
fn put(address: SocketAddr, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(stream, "PUT {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[test]
fn debug_pages_are_not_there_unless_the_config_asks_for_them() {
    let dir = directory();
    let server = Server::start(dir.path());
    for path in ["/debug/status", "/debug/log"] {
        assert_eq!(get(server.health, path).status, 404, "{path}");
    }
    assert_eq!(put(server.health, "/debug/log", "debug").0, 404);
    assert_ne!(get(server.api, "/debug/status").status, 200);
}

#[test]
fn debug_pages_beyond_loopback_are_refused_until_somebody_says_so() {
    let flags =
        ["check-config", "--services", "all", "--health-listen", "0.0.0.0:7500", "--set", "telemetry.debug=true"];
    let refused = Ended::of(&mut flotilla(&flags));
    assert_eq!(refused.code, Some(64));
    assert!(refused.stderr.contains("debug_exposed = true"), "{}", refused.stderr);
    let allowed = Ended::of(flotilla(&flags).args(["--set", "telemetry.debug_exposed=true"]));
    assert_eq!(allowed.code, Some(0), "{}", allowed.stderr);
}

#[test]
fn what_is_logged_can_be_changed_while_the_server_runs() {
    let dir = directory();
    let server = debugging(dir.path());
    assert_eq!(get(server.health, "/debug/log").body, "info,openraft=error\n");
    let (status, told) = put(server.health, "/debug/log", "warn,flotilla=info,openraft=info\n");
    assert_eq!((status, told.trim()), (200, "warn,flotilla=info,openraft=info"));
    server.process.stderr("the change", |line| line.contains("what is logged was changed"));
    assert_eq!(get(server.health, "/debug/log").body, "warn,flotilla=info,openraft=info\n");
    for bad in ["", "flotilla=loudly", &"x".repeat(5_000)] {
        assert_eq!(put(server.health, "/debug/log", bad).0, 400, "{bad}");
    }
    assert_eq!(get(server.health, "/debug/log").body, "warn,flotilla=info,openraft=info\n");
}

#[test]
fn the_status_page_tells_of_log_feed_and_window() {
    let dir = directory();
    let server = debugging(dir.path());
    server.json(&["users", "create", "--email", "ada@example.org"]);
    let page: Value = serde_json::from_str(&get(server.health, "/debug/status").body).unwrap();
    assert_eq!((page["phase"].as_str(), page["cell"].as_str()), (Some("ready"), Some("flotilla")));
    assert_eq!((page["feed"]["revision"].as_u64(), page["window"]["requests"].as_u64()), (Some(1), Some(1)), "{page}");
    assert!(page["store"]["rows"].as_u64() >= Some(1) && page["log"]["last_index"].as_u64() >= Some(1), "{page}");
}

#[test]
fn a_slow_request_is_told_with_its_method_and_caller() {
    let dir = directory();
    let server = Server::start_with(dir.path(), &["--listen", "127.0.0.1:0", "--set", "telemetry.slow_request=1ns"]);
    server.json(&["users", "create", "--email", "ada@example.org", "--as", "grace"]);
    let line = server.process.stderr("the slow request", |line| line.contains("a request was slow"));
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["method"], "/flotilla.users.v1.UsersService/CreateUser");
    assert_eq!(
        (line["user"].as_str(), line["code"].as_str(), line["level"].as_str()),
        (Some("grace"), Some("Ok"), Some("WARN"))
    );
    assert!(
        line["took_ms"].as_f64() > Some(0.0) && line["address"].as_str().unwrap().starts_with("127.0.0.1:"),
        "{line}"
    );
}
