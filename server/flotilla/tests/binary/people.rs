//! Users by name, wherever the threads commands take one.

use crate::harness::{Ended, Server, directory};

fn create(server: &Server, email: &str, name: &str) -> String {
    let user = server.json(&["users", "create", "--email", email, "--display-name", name]);
    user["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_name_that_several_users_have_is_refused_with_their_ids() {
    let dir = directory();
    let server = Server::start(dir.path());
    let first = create(&server, "ada@example.org", "Ada");
    let second = create(&server, "other@example.org", "ADA");
    create(&server, "adam@example.org", "Adam");
    let refused = server.run(&["threads", "list", "--as", "ada"]);
    assert_eq!(refused.code, Some(64));
    assert!(refused.stderr.contains("--as ada: several users have this name"), "{}", refused.stderr);
    assert!(refused.stderr.contains(&first) && refused.stderr.contains(&second), "{}", refused.stderr);
    assert!(!refused.stderr.contains("adam@example.org"), "{}", refused.stderr);
}

#[test]
fn a_name_that_nobody_has_is_refused_with_those_that_begin_with_it() {
    let dir = directory();
    let server = Server::start(dir.path());
    create(&server, "adam@example.org", "Adam");
    let refused = server.run(&["threads", "list", "--as", "ada"]);
    assert_eq!(refused.code, Some(64));
    assert!(refused.stderr.contains("no user has this name") && refused.stderr.contains("adam@example.org"));
    let refused = server.run(&["threads", "list", "--as", "grace"]);
    assert!(refused.stderr.contains("--as grace: no user has this name; `flotilla users list`"), "{}", refused.stderr);
    let refused = server.run(&["threads", "list", "--as", "grace@example.org"]);
    assert!(refused.stderr.contains("no user has this address"), "{}", refused.stderr);
}

#[test]
fn a_thread_cannot_be_watched_without_a_device_and_without_a_home_for_one() {
    let dir = directory();
    let server = Server::start(dir.path());
    let mut command = server.command(&["threads", "watch", "--as", "01J9ZC5W1V8N3E6D4K2R7T0Q9B"]);
    let refused = Ended::of(command.env_remove("HOME"));
    assert_eq!(refused.code, Some(64));
    assert!(refused.stderr.contains("--device") && refused.stderr.contains("so give one"), "{}", refused.stderr);
}
