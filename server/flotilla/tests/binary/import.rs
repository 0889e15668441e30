//! `records import`: atomic batches, and going on after any interruption.

use std::{fs, io::Write, process::Stdio};

use rustix::process::Signal;

use crate::harness::{Ended, Process, Server, directory, until};

fn lines(range: std::ops::Range<usize>) -> String {
    range.map(|n| format!("{{\"id\": \"boat-{n:05}\", \"n\": {n}}}\n")).collect()
}

fn count(server: &Server) -> usize {
    server.json(&["records", "list", "boats"])["records"].as_array().unwrap().len()
}

#[test]
fn a_bad_line_is_told_by_number_and_the_import_goes_on_when_it_is_mended() {
    let dir = directory();
    let server = Server::start(dir.path());
    let file = dir.path().join("boats.ndjson");
    let path = file.to_str().unwrap();
    let checkpoint = dir.path().join("boats.ndjson.flotilla-import");
    fs::write(&file, lines(0..700) + "{\"id\": \"boat-00700\", \"n\": }\n" + &lines(701..1000)).unwrap();

    let stopped = server.run(&["records", "import", "boats", path, "--batch", "300"]);
    assert_eq!(stopped.code, Some(1));
    assert!(stopped.stderr.contains("line 701, column 27: "), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("600 records are written, up to line 600"), "{}", stopped.stderr);
    assert_eq!(count(&server), 600, "nothing of the batch with the bad line is written");
    assert!(checkpoint.exists());

    fs::write(&file, lines(0..1000)).unwrap();
    let done = server.run(&["records", "import", "boats", path, "--batch", "300"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stderr.contains("going on after line 600"), "{}", done.stderr);
    assert!(done.stderr.contains("imported 400 records into boats in 2 batches"), "{}", done.stderr);
    assert_eq!(count(&server), 1000);
    assert!(!checkpoint.exists());
}

#[test]
fn an_import_from_stdin_that_is_interrupted_tells_how_to_go_on() {
    let dir = directory();
    let server = Server::start(dir.path());
    let import = ["records", "import", "boats"];
    let mut first = Process::start(server.command(&import).stdin(Stdio::piped()));
    let mut stdin = first.stdin();
    stdin.write_all(lines(0..700).as_bytes()).unwrap();
    until("a batch is written", || count(&server) == 500);
    first.signal(Signal::INT);
    assert_eq!(first.wait().code(), Some(130));
    first.stderr("the way to go on", |line| line.contains("--skip 500"));
    drop(stdin);

    let file = dir.path().join("boats.ndjson");
    fs::write(&file, lines(0..1000)).unwrap();
    let again = &mut server.command(&["records", "import", "boats", "--skip", "500"]);
    let done = Ended::of(again.stdin(fs::File::open(&file).unwrap()));
    assert!(done.stderr.contains("imported 500 records"), "{}", done.stderr);
    assert_eq!(count(&server), 1000);
}

#[test]
fn a_batch_that_was_written_twice_counts_once() {
    let dir = directory();
    let server = Server::start(dir.path());
    let file = dir.path().join("boats.ndjson");
    let path = file.to_str().unwrap();
    fs::write(&file, lines(0..100)).unwrap();
    let import = || assert_eq!(server.run(&["records", "import", "boats", path]).code, Some(0));
    import();
    let first = server.json(&["records", "get", "boats", "boat-00000"]);
    import();
    assert_eq!(server.json(&["records", "get", "boats", "boat-00000"])["etag"], first["etag"]);
}

#[test]
fn a_file_that_was_changed_before_the_checkpoint_is_not_gone_on_with() {
    let dir = directory();
    let server = Server::start(dir.path());
    let file = dir.path().join("boats.ndjson");
    let path = file.to_str().unwrap();
    fs::write(&file, lines(0..500) + "not json\n").unwrap();
    assert_eq!(server.run(&["records", "import", "boats", path]).code, Some(1));
    fs::write(&file, lines(1..600)).unwrap();
    let refused = server.run(&["records", "import", "boats", path]);
    assert_eq!(refused.code, Some(64));
    assert!(refused.stderr.contains("was changed since its first 500 lines"), "{}", refused.stderr);
}

#[test]
fn what_records_list_prints_can_be_imported() {
    let dir = directory();
    let server = Server::start(dir.path());
    let file = dir.path().join("boats.ndjson");
    fs::write(&file, lines(0..3)).unwrap();
    server.run(&["records", "import", "boats", file.to_str().unwrap()]);
    let listed = server.json(&["records", "list", "boats"]);
    let text: String = listed["records"].as_array().unwrap().iter().map(|record| format!("{record}\n")).collect();
    fs::write(&file, text).unwrap();
    let copied = server.run(&["records", "import", "copies", file.to_str().unwrap()]);
    assert_eq!(copied.code, Some(0), "{}", copied.stderr);
    assert_eq!(server.json(&["records", "get", "copies", "boat-00002"])["document"], listed["records"][2]["document"]);
}
