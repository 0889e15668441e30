//! `backup` from a server at work, `restore` into a directory that a server opens, and every file that
//! is refused.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use flotilla_proto::{
    errors::v1::Reason,
    records::v1::{
        BatchWriteRequest, Operation, WatchRecordsRequest, operation, records_service_client::RecordsServiceClient,
        watch_records_response::Item,
    },
};
use prost_types::{Struct, Value, value::Kind};
use rustix::process::Signal;
use tonic::transport::Channel;

use crate::harness::{Ended, Server, directory, flotilla, until};

/// Two records of one writer, always with the same counter.
fn pair(writer: usize, count: u64) -> BatchWriteRequest {
    let operation = |side: &str| {
        let value = Value { kind: Some(Kind::NumberValue(count as f64)) };
        let document = Some(Struct { fields: BTreeMap::from([("count".to_owned(), value)]) });
        let id = format!("writer-{writer}-{side}");
        let put = operation::Put { table: "pairs".into(), id, document, ..operation::Put::default() };
        Operation { kind: Some(operation::Kind::Put(put)) }
    };
    BatchWriteRequest {
        operations: vec![operation("left"), operation("right")],
        request_id: format!("writer-{writer}-{count}"),
    }
}

/// Writers at work, each with the last counter that was acknowledged.
struct Writers {
    acknowledged: Vec<Arc<AtomicU64>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Writers {
    fn start(channel: &Channel, count: usize) -> Self {
        let stop: Arc<AtomicBool> = Arc::default();
        let acknowledged: Vec<Arc<AtomicU64>> = (0..count).map(|_| Arc::default()).collect();
        let tasks = acknowledged.iter().enumerate().map(|(writer, acknowledged)| {
            let mut client = RecordsServiceClient::new(channel.clone());
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            tokio::spawn(async move {
                for count in 1.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    client.batch_write(pair(writer, count)).await.unwrap();
                    acknowledged.store(count, Ordering::SeqCst);
                }
            })
        });
        let tasks = tasks.collect();
        Self { acknowledged, stop, tasks }
    }

    fn counts(&self) -> Vec<u64> {
        self.acknowledged.iter().map(|count| count.load(Ordering::SeqCst)).collect()
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

/// The counter of each record of the pairs.
fn pairs(server: &Server) -> BTreeMap<String, u64> {
    let listed = server.json(&["records", "list", "pairs"]);
    let records = listed["records"].as_array().unwrap().iter();
    records
        .map(|record| (record["id"].as_str().unwrap().to_owned(), record["document"]["count"].as_f64().unwrap() as u64))
        .collect()
}

fn restore(file: &Path, data_dir: &Path) -> Ended {
    Ended::of(flotilla(&["restore"]).arg("--in").arg(file).arg("--data-dir").arg(data_dir))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_restores_to_a_state_that_existed_with_all_that_was_acknowledged_before() {
    let dir = directory();
    let (file, fresh) = (dir.path().join("b.flotilla"), dir.path().join("fresh"));
    let server = Server::start(&dir.path().join("data"));
    let channel = server.channel().await;
    let watch = RecordsServiceClient::new(channel.clone()).watch_records(WatchRecordsRequest::default()).await;
    let first = watch.unwrap().into_inner().message().await.unwrap().unwrap().item;
    let Some(Item::Heartbeat(heartbeat)) = first else { panic!("{first:?}") };

    let writers = Writers::start(&channel, 6);
    until("every writer has written", || writers.counts().into_iter().all(|count| count >= 20));
    let before = writers.counts();
    let saved = tokio::task::block_in_place(|| server.json(&["backup", "--out", file.to_str().unwrap()]));
    let after = writers.counts();
    writers.stop().await;
    assert_eq!((saved["cell"].as_str(), saved["rows"].as_u64() >= Some(12)), (Some("flotilla"), true), "{saved}");
    assert_eq!(saved["bytes"].as_u64(), Some(fs::metadata(&file).unwrap().len()));
    assert!(!dir.path().join("b.flotilla.partial").exists());
    drop(server);

    let made = restore(&file, &fresh);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    assert!(made.stderr.contains("try: flotilla serve"), "{}", made.stderr);
    let server = Server::start(&fresh);
    let found = pairs(&server);
    assert_eq!(found.len(), 12);
    for (writer, (before, after)) in before.into_iter().zip(after).enumerate() {
        let (left, right) = (found[&format!("writer-{writer}-left")], found[&format!("writer-{writer}-right")]);
        assert_eq!(left, right, "a transaction is in the backup whole or not at all");
        // One more may have been on its way when the backup ended.
        assert!(before <= left && left <= after + 1, "writer {writer}: {before} <= {left} <= {after}");
    }
    assert_eq!(server.json(&["check"])["ok"], true);

    let cursor = heartbeat.cursor;
    let mut records = RecordsServiceClient::new(server.channel().await);
    let mut stale =
        records.watch_records(WatchRecordsRequest { cursor, tables: Vec::new() }).await.unwrap().into_inner();
    let Some(Item::Reset(reset)) = stale.message().await.unwrap().unwrap().item else { panic!("no reset") };
    assert_eq!(reset.reason(), Reason::HistoryChanged);
}

/// A server with so many kilobytes of records, and a backup of it.
fn saved(dir: &Path, kilobytes: usize) -> (Server, PathBuf) {
    let server = Server::start(&dir.join("data"));
    fill(&server, dir, kilobytes);
    let file = dir.join("b.flotilla");
    let done = server.run(&["backup", "--out", file.to_str().unwrap()]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    (server, file)
}

fn fill(server: &Server, dir: &Path, kilobytes: usize) {
    let lines: String = (0..kilobytes).map(|n| format!("{{\"id\": \"{n:06}\", \"x\": \"{:0>950}\"}}\n", n)).collect();
    let file = dir.join("rows.ndjson");
    fs::write(&file, lines).unwrap();
    let done = server.run(&["records", "import", "rows", file.to_str().unwrap()]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
}

#[test]
fn a_backup_never_replaces_a_file_unless_it_is_told_to() {
    let dir = directory();
    let (server, file) = saved(dir.path(), 10);
    let first = fs::read(&file).unwrap();
    let path = file.to_str().unwrap();
    server.json(&["users", "create", "--email", "ada@example.org"]);
    let refused = server.run(&["backup", "--out", path]);
    assert_eq!(refused.code, Some(64));
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    assert_eq!(fs::read(&file).unwrap(), first);
    assert_eq!(server.run(&["backup", "--out", path, "--force"]).code, Some(0));
    assert_ne!(fs::read(&file).unwrap(), first);
}

#[test]
fn a_backup_can_be_sent_to_a_program() {
    let dir = directory();
    let (server, file) = saved(dir.path(), 10);
    let piped = server.command(&["backup", "--out", "-"]).output().unwrap();
    assert!(piped.status.success());
    assert_eq!(piped.stdout, fs::read(&file).unwrap());
    assert!(String::from_utf8(piped.stderr).unwrap().contains("saved 10 rows"));
}

#[test]
fn files_that_are_no_whole_backup_are_refused_before_anything_is_made() {
    let dir = directory();
    let (_server, file) = saved(dir.path(), 700);
    let bytes = fs::read(&file).unwrap();
    let fresh = dir.path().join("fresh");
    let bad = dir.path().join("bad.flotilla");
    let mut altered = bytes.clone();
    altered[bytes.len() / 2] ^= 4;
    for (content, told) in [
        (&bytes[..bytes.len() - 100], "it is cut"),
        (&altered[..], "checksum"),
        (&b"a letter"[..], "does not begin as a backup"),
    ] {
        fs::write(&bad, content).unwrap();
        let refused = restore(&bad, &fresh);
        assert_eq!(refused.code, Some(1), "{}", refused.stderr);
        assert!(refused.stderr.contains(told), "{}", refused.stderr);
        assert!(!fresh.exists());
    }
    let missing = restore(&dir.path().join("nowhere"), &fresh);
    assert_eq!(missing.code, Some(74), "{}", missing.stderr);
    let occupied = restore(&file, dir.path());
    assert_eq!(occupied.code, Some(64));
    assert!(occupied.stderr.contains("is not empty"), "{}", occupied.stderr);
}

#[test]
fn a_backup_from_a_server_that_dies_is_told_to_be_cut() {
    let dir = directory();
    let (mut server, _) = saved(dir.path(), 10);
    fill(&server, dir.path(), 20_000);
    let mut command = server.command(&["backup", "--out", "-"]);
    let mut slow = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It has begun, and as long as nobody reads on it can't end.
    slow.stdout.as_mut().unwrap().read_exact(&mut [0; 8]).unwrap();
    server.process.signal(Signal::KILL);
    server.process.wait();
    let ended = slow.wait_with_output().unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(74), "{told}");
    assert!(told.contains("the backup is cut"), "{told}");
    let out = dir.path().join("second.flotilla");
    let refused = server.run(&["backup", "--out", out.to_str().unwrap()]);
    assert_eq!(refused.code, Some(69), "{}", refused.stderr);
    assert!(!out.exists() && !dir.path().join("second.flotilla.partial").exists());
}

#[test]
fn a_restore_under_another_name_says_how_to_serve_it() {
    let dir = directory();
    let (server, file) = saved(dir.path(), 10);
    drop(server);
    let fresh = dir.path().join("fresh");
    let mut command = flotilla(&["restore", "--cell", "harbour", "--server-id", "7"]);
    let made = Ended::of(command.arg("--in").arg(&file).arg("--data-dir").arg(&fresh));
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    assert!(made.stderr.contains("--set cluster.name=harbour --set cluster.id=7"), "{}", made.stderr);
    let flags = [
        "--listen",
        "127.0.0.1:0",
        "--set",
        "cluster.name=harbour",
        "--set",
        "cluster.id=7",
        "--set",
        "limits.cache=8MiB",
    ];
    let server = Server::start_with(&fresh, &flags);
    assert_eq!(server.json(&["records", "get", "rows", "000009"])["id"], "000009");
}

#[test]
fn a_half_restored_directory_is_refused_by_serve() {
    let dir = directory();
    let fresh = dir.path().join("fresh");
    fs::create_dir(&fresh).unwrap();
    fs::write(fresh.join("restore.partial"), "").unwrap();
    let mut serve = flotilla(&["serve", "--services", "all", "--listen", "127.0.0.1:0", "--data-dir"]);
    let ended = Ended::of(serve.arg(&fresh));
    assert_eq!(ended.code, Some(74));
    assert!(ended.stderr.contains("run the restore again"), "{}", ended.stderr);
}

/// A small disk, if this process may mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, mebibytes: u32) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let size = format!("size={mebibytes}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at).output();
        match mount {
            Ok(mounted) if mounted.status.success() => Some(Self(at)),
            _ => {
                eprintln!("SKIPPED: this process may not mount a small disk, so a full one can't be tried");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that was killed a moment ago may still be there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_at_the_client_leaves_no_file_and_says_so() {
    let dir = directory();
    let (server, _) = saved(dir.path(), 4_000);
    let Some(disk) = SmallDisk::mount(dir.path().join("small"), 1) else { return };
    let full = server.run(&["backup", "--out", disk.0.join("b.flotilla").to_str().unwrap()]);
    assert_eq!(full.code, Some(74), "{}", full.stderr);
    assert!(full.stderr.contains("No space left"), "{}", full.stderr);
    assert_eq!(fs::read_dir(&disk.0).unwrap().count(), 0);
}

#[test]
fn a_full_disk_at_the_server_refuses_the_backup_and_no_writer() {
    let dir = directory();
    let Some(disk) = SmallDisk::mount(dir.path().join("small"), 64) else { return };
    let server = Server::start(&disk.0.join("data"));
    fill(&server, dir.path(), 8_000);
    // Two mebibytes are left: enough for writers, not for eight of backup.
    let statistics = rustix::fs::statvfs(&disk.0).unwrap();
    let free = statistics.f_bavail * statistics.f_frsize;
    let ballast = disk.0.join("ballast");
    fs::write(&ballast, vec![1; free as usize - (2 << 20)]).unwrap();
    let out = dir.path().join("b.flotilla");
    let refused = server.run(&["backup", "--out", out.to_str().unwrap()]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("DISK_FULL"), "{}", refused.stderr);
    assert!(!out.exists());
    server.json(&["users", "create", "--email", "ada@example.org"]);
    fs::remove_file(&ballast).unwrap();
    let done = server.run(&["backup", "--out", out.to_str().unwrap()]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
}
