//! What a person does at the command line, in the order of the README.

use crate::harness::{Ended, Server, directory, flotilla};

#[test]
fn users_are_created_read_changed_and_deleted() {
    let dir = directory();
    let server = Server::start(dir.path());
    let names = ["--first-name", "Ada", "--last-name", "Lovelace", "--label", "team=engines"];
    let ada = server.json(&[&["users", "create", "--email", "ada@example.org"], &names[..]].concat());
    assert_eq!((ada["displayName"].as_str(), ada["labels"]["team"].as_str()), (Some("Ada Lovelace"), Some("engines")));
    let id = ada["id"].as_str().unwrap();

    assert_eq!(server.json(&["users", "get", id]), ada);
    assert_eq!(server.json(&["users", "list", "--email", "ADA@example.org"])["users"][0], ada);
    assert_eq!(server.json(&["users", "list", "--name-prefix", "love"])["users"][0], ada);

    let countess = server.json(&["users", "update", id, "--display-name", "The Countess", "--no-labels"]);
    assert_eq!((countess["displayName"].as_str(), countess.get("labels")), (Some("The Countess"), None));
    let stale = server.run(&["users", "update", id, "--last-name", "King", "--etag", ada["etag"].as_str().unwrap()]);
    assert_eq!(stale.code, Some(1));
    assert!(stale.stderr.contains("ETAG_STALE") && stale.stderr.contains("try: "), "{}", stale.stderr);

    assert_eq!(server.run(&["users", "delete", id]).code, Some(0));
    let gone = server.run(&["users", "get", id]);
    assert_eq!(gone.code, Some(1));
    assert!(gone.stderr.contains("USER_NOT_FOUND"), "{}", gone.stderr);
}

#[test]
fn a_second_user_with_the_same_address_is_refused_with_the_field() {
    let dir = directory();
    let server = Server::start(dir.path());
    server.json(&["users", "create", "--email", "ada@example.org"]);
    let taken = server.run(&["users", "create", "--email", "Ada@Example.org"]);
    assert_eq!(taken.code, Some(1));
    assert!(taken.stderr.contains("EMAIL_TAKEN") && taken.stderr.contains("email"), "{}", taken.stderr);
    assert_eq!(taken.stdout, "");
}

#[test]
fn records_are_put_listed_and_deleted_without_a_table_being_made() {
    let dir = directory();
    let server = Server::start(dir.path());
    let document = r#"{"length_m": 4.2, "owner": "ada", "oars": 2}"#;
    let skiff = server.json(&["records", "put", "boats", "skiff", document]);
    assert_eq!(skiff["document"], serde_json::from_str::<serde_json::Value>(document).unwrap());
    assert_eq!(server.json(&["records", "get", "boats", "skiff"]), skiff);
    assert_eq!(server.json(&["records", "tables"])["tables"][0]["name"], "boats");
    let again = server.run(&["records", "put", "boats", "skiff", "{}", "--create-only"]);
    assert!(again.stderr.contains("RECORD_EXISTS"), "{}", again.stderr);
    assert_eq!(server.run(&["records", "delete", "boats", "skiff"]).code, Some(0));
    assert_eq!(server.json(&["records", "list", "boats"])["records"], serde_json::json!([]));

    let bad = server.run(&["records", "put", "boats", "skiff", "{\"length_m\": }"]);
    assert_eq!(bad.code, Some(64));
    assert!(bad.stderr.contains("column"), "{}", bad.stderr);
}

#[test]
fn check_finds_every_space_as_it_should_be() {
    let dir = directory();
    let server = Server::start(dir.path());
    server.json(&["users", "create", "--email", "ada@example.org"]);
    server.json(&["records", "put", "boats", "skiff", "{}"]);
    let checked = server.json(&["check"]);
    assert_eq!(checked["ok"], true);
    let spaces = checked["servers"][0]["spaces"].as_array().unwrap();
    let names: Vec<_> = spaces.iter().map(|space| space["space"].as_str().unwrap()).collect();
    assert_eq!(names, ["users", "records"]);
    let table = server.run(&["check", "--output", "table"]).stdout;
    assert!(table.starts_with("SERVER  SPACE    ROWS  HASH"), "{table}");
}

#[test]
fn yaml_and_tables_are_printed_when_asked_for() {
    let dir = directory();
    let server = Server::start(dir.path());
    server.json(&["users", "create", "--email", "ada@example.org"]);
    let yaml = server.run(&["users", "list", "--output", "yaml"]).stdout;
    assert!(yaml.starts_with("users:\n- id: ") && yaml.contains("\n  email: ada@example.org\n"), "{yaml}");
    let table = server.run(&["users", "list", "--output", "table"]).stdout;
    assert!(table.starts_with("ID ") && table.contains("ada@example.org"), "{table}");
}

#[test]
fn what_was_acknowledged_is_there_after_kill_9() {
    let dir = directory();
    let server = Server::start(dir.path());
    let ada = server.json(&["users", "create", "--email", "ada@example.org"]);
    // Dropping a server kills it without a word.
    drop(server);
    let server = Server::start(dir.path());
    assert_eq!(server.json(&["users", "list"])["users"], serde_json::json!([ada]));
}

#[test]
fn a_full_disk_refuses_writes_and_serves_reads() {
    let dir = directory();
    let flags = ["--listen", "127.0.0.1:0", "--set", "limits.min_free_disk=1000TiB"];
    let server = Server::start_with(dir.path(), &flags);
    let full = server.run(&["users", "create", "--email", "ada@example.org"]);
    assert_eq!(full.code, Some(1));
    assert!(full.stderr.contains("DISK_FULL"), "{}", full.stderr);
    assert_eq!(server.json(&["users", "list"])["users"], serde_json::json!([]));
}

#[test]
fn a_server_that_is_not_there_is_named_with_the_way_to_start_one() {
    let ended = Ended::of(&mut flotilla(&["users", "list", "--endpoint", "http://127.0.0.1:1"]));
    assert_eq!(ended.code, Some(69));
    assert!(ended.stderr.contains("cannot reach http://127.0.0.1:1: connection refused"), "{}", ended.stderr);
    assert!(ended.stderr.contains("flotilla dev"), "{}", ended.stderr);
}

#[test]
fn a_usage_error_is_64_and_help_is_0() {
    assert_eq!(Ended::of(&mut flotilla(&["users", "frobnicate"])).code, Some(64));
    assert_eq!(Ended::of(&mut flotilla(&["users", "create", "--help"])).code, Some(0));
    assert!(Ended::of(&mut flotilla(&["completions", "bash"])).stdout.contains("_flotilla"));
}
