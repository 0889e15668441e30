//! What keeps a server from starting, and what it says then.

use std::fs;

use crate::harness::{Ended, Server, directory, flotilla};

#[test]
fn a_server_without_services_exits_64_and_says_what_to_write() {
    let ended = Ended::of(&mut flotilla(&["serve"]));
    assert_eq!(ended.code, Some(64));
    assert!(ended.stderr.contains(r#"services = ["all"]"#), "{}", ended.stderr);
    assert!(ended.stderr.contains("users, records"), "{}", ended.stderr);
}

#[test]
fn an_unknown_key_is_told_with_its_line_and_the_nearest_name() {
    let dir = directory();
    let file = dir.path().join("config.toml");
    fs::write(&file, "services = [\"all\"]\ndata_dri = \"x\"\n").unwrap();
    let ended = Ended::of(flotilla(&["serve", "--config"]).arg(&file));
    assert_eq!(ended.code, Some(64));
    assert!(
        ended.stderr.contains("config.toml:2: unknown key `data_dri`; did you mean `data_dir`?"),
        "{}",
        ended.stderr
    );
}

#[test]
fn an_unknown_service_is_told_with_the_nearest_name() {
    let ended = Ended::of(&mut flotilla(&["serve", "--services", "user"]));
    assert_eq!(ended.code, Some(64));
    assert!(ended.stderr.contains("did you mean `users`?"), "{}", ended.stderr);
}

#[test]
fn a_variable_is_weaker_than_a_flag_and_stronger_than_the_file() {
    let dir = directory();
    let file = dir.path().join("config.toml");
    fs::write(&file, "services = [\"users\"]\nlisten = \"127.0.0.1:1\"\n[limits]\ncache = \"8 MiB\"\n").unwrap();
    let mut command = flotilla(&["check-config", "--listen", "127.0.0.1:3"]);
    command.arg("--config").arg(&file).env("FLOTILLA_LISTEN", "127.0.0.1:2").env("FLOTILLA_LIMITS_CACHE", "9 MiB");
    let ended = Ended::of(&mut command);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let has = |key: &str, value: &str, origin: &str| {
        let found =
            ended.stdout.lines().any(|line| line.starts_with(&format!("{key} = {value} ")) && line.ends_with(origin));
        assert!(found, "{key} = {value} # {origin} is not in\n{}", ended.stdout);
    };
    has("listen", "\"127.0.0.1:3\"", "# flag --listen");
    has("cache", "\"9 MiB\"", "# variable FLOTILLA_LIMITS_CACHE");
    has("services", "[\"users\"]", "config.toml:1");
}

#[test]
fn listening_beyond_loopback_is_refused_until_somebody_says_so() {
    let listen = ["check-config", "--services", "all", "--listen", "0.0.0.0:7400"];
    let ended = Ended::of(&mut flotilla(&listen));
    assert_eq!(ended.code, Some(64));
    assert!(ended.stderr.contains("unauthenticated = true"), "{}", ended.stderr);
    let ended = Ended::of(flotilla(&listen).arg("--unauthenticated"));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn a_data_directory_in_use_is_refused_with_the_process_that_uses_it() {
    let dir = directory();
    let server = Server::start(dir.path());
    let mut second = flotilla(&["serve", "--services", "all", "--listen", "127.0.0.1:0", "--data-dir"]);
    let ended = Ended::of(second.arg(dir.path()));
    assert_eq!(ended.code, Some(74));
    assert!(ended.stderr.contains(&format!("process {}", server.process.pid())), "{}", ended.stderr);
}

#[test]
fn a_data_directory_of_another_cell_is_refused() {
    let dir = directory();
    drop(Server::start(dir.path()));
    let mut other = flotilla(&["serve", "--services", "all", "--listen", "127.0.0.1:0"]);
    let ended = Ended::of(other.args(["--set", "cluster.name=other", "--data-dir"]).arg(dir.path()));
    assert_eq!(ended.code, Some(64));
    assert!(ended.stderr.contains("flotilla") && ended.stderr.contains("other"), "{}", ended.stderr);
}

#[test]
fn a_port_that_is_taken_is_told_by_dev_with_the_way_out() {
    let dir = directory();
    let server = Server::start(dir.path());
    let mut dev = flotilla(&["dev", "--servers", "1", "--listen", &server.api.to_string(), "--dir"]);
    let ended = Ended::of(dev.arg(dir.path().join("other")));
    assert_eq!(ended.code, Some(74));
    assert!(ended.stderr.contains("--listen"), "{}", ended.stderr);
}

#[test]
fn an_even_count_of_voters_is_allowed_and_told_why_it_is_not_better() {
    let peers = "--set=cluster.peers=1=127.0.0.1:7400,2=127.0.0.1:7401";
    let ended = Ended::of(&mut flotilla(&["check-config", "--services", "all", "--set", "cluster.voters=2", peers]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("warning: `cluster.voters` is 2: an even count"), "{}", ended.stderr);
    let ended = Ended::of(&mut flotilla(&["check-config", "--services", "all", "--set", "cluster.voters=3", peers]));
    assert_eq!(ended.code, Some(64));
    assert!(ended.stderr.contains("has 2 of them: add the others, as 3 = "), "{}", ended.stderr);
}
