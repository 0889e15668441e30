//! The socket and the cell behind it, with servers that are only shell scripts.

use std::time::{Duration, Instant};

use super::{
    cell::{Cell, ServerState},
    control::{Answer, Control, Request, ask},
    place::Place,
    plan::Plan,
};

/// Ends on SIGTERM with 0, or when its stdin ends.
const POLITE: &str = "exec 3<&0; trap 'exit 0' TERM; cat <&3 >/dev/null & wait";
const PATIENCE: Duration = Duration::from_secs(20);

/// A `flotilla dev` of stubs.
struct Dev {
    place: Place,
    cell: Cell,
    _dir: tempfile::TempDir,
}

impl Dev {
    async fn start(servers: u64, script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path().to_owned());
        place.make().unwrap();
        // Nobody listens: the addresses are only told.
        let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let control = Control::bind(&place).unwrap();
        let cell = Cell::new(Plan::of_stubs(place.clone(), servers, listen, script));
        for id in 1..=servers {
            cell.launch(id).unwrap();
        }
        let serving = cell.clone();
        tokio::spawn(async move { control.serve(&serving).await });
        Self { place, cell, _dir: dir }
    }

    async fn ask(&self, request: Request) -> Answer {
        let place = self.place.clone();
        tokio::task::spawn_blocking(move || ask(&place, &request).unwrap()).await.unwrap()
    }

    /// What was said and warned of, as one text.
    async fn done(&self, request: Request) -> String {
        match self.ask(request).await {
            Answer::Done(done) => [done.said, done.warnings].concat().join("\n"),
            other => panic!("{other:?}"),
        }
    }

    async fn states(&self) -> Vec<String> {
        match self.ask(Request::Status {}).await {
            Answer::Servers(servers) => servers.into_iter().map(|ServerState { state, .. }| state).collect(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_is_told_as_such_and_started_again() {
    let dev = Dev::start(3, POLITE).await;
    let told = dev.done(Request::Kill { server: 2 }).await;
    assert!(told.contains("killed server 2") && told.contains("flotilla dev start 2"), "{told}");
    assert!(!told.contains("majority"), "{told}");
    assert_eq!(dev.states().await, ["running", "killed", "running"]);
    assert_eq!(dev.done(Request::Kill { server: 2 }).await, "server 2 doesn't run");
    assert!(dev.done(Request::Start { server: 2 }).await.contains("started server 2 at http://"));
    assert_eq!(dev.done(Request::Start { server: 2 }).await, "server 2 runs already");
    assert_eq!(dev.states().await, ["running"; 3]);
    dev.cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_voter_that_goes_takes_the_majority_with_it() {
    let dev = Dev::start(3, POLITE).await;
    let told = dev.done(Request::Drain { server: 1 }).await;
    assert!(told.contains("stopped server 1") && !told.contains("majority"), "{told}");
    let told = dev.done(Request::Kill { server: 3 }).await;
    assert!(told.contains("1 of 3 voters run") && told.contains("flotilla dev start 1"), "{told}");
    assert_eq!(dev.states().await, ["stopped", "running", "killed"]);
    dev.cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_servers_come_without_a_vote_and_fewer_than_vote_are_refused() {
    let dev = Dev::start(3, POLITE).await;
    let told = dev.done(Request::Scale { servers: 5 }).await;
    assert!(told.contains("started server 4 at") && told.contains("server 5"), "{told}");
    match dev.ask(Request::Status {}).await {
        Answer::Servers(servers) => {
            assert_eq!(servers.iter().map(|server| server.votes).collect::<Vec<_>>(), [true, true, true, false, false]);
        }
        other => panic!("{other:?}"),
    }
    let told = dev.done(Request::Scale { servers: 4 }).await;
    assert!(told.contains("stopped server 5") && !told.contains("server 4"), "{told}");
    assert_eq!(dev.states().await.len(), 4);
    match dev.ask(Request::Scale { servers: 2 }).await {
        Answer::Refused(reason) => assert!(reason.starts_with("3 servers vote; fewer would leave"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(dev.states().await, ["running"; 4]);
    dev.cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_refused_with_those_that_are() {
    let dev = Dev::start(1, POLITE).await;
    for request in [Request::Kill { server: 7 }, Request::Start { server: 7 }, Request::Drain { server: 7 }] {
        match dev.ask(request).await {
            Answer::Refused(reason) => assert!(reason.contains("no server 7, but 1"), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
    dev.cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_all_end_by_themselves_end_it_all() {
    let dev = Dev::start(3, "exit 74").await;
    tokio::time::timeout(PATIENCE, dev.cell.all_ended()).await.unwrap();
    assert_eq!(dev.states().await, ["ended by itself, exit code 74"; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_are_stopped_at_once_and_those_that_do_not_listen_are_killed_on_demand() {
    let dev = Dev::start(3, POLITE).await;
    let asked = Instant::now();
    dev.cell.stop().await;
    assert!(asked.elapsed() < PATIENCE, "{:?}", asked.elapsed());
    assert_eq!(dev.states().await, ["stopped"; 3]);
    let dev = Dev::start(2, "trap '' TERM; while :; do sleep 0.1; done").await;
    dev.cell.kill_all().await;
    assert_eq!(dev.states().await, ["killed"; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_understood_is_refused_and_a_second_one_does_not_start_here() {
    use std::io::{BufRead, BufReader, Write};
    let dev = Dev::start(1, POLITE).await;
    let socket = dev.place.socket();
    let answer = tokio::task::spawn_blocking(move || {
        let stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        (&stream).write_all(b"{\"action\":\"explode\"}\n").unwrap();
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer).unwrap();
        answer
    });
    let answer = answer.await.unwrap();
    assert!(answer.starts_with("{\"refused\":\"not understood"), "{answer}");
    let second = Control::bind(&dev.place).map(|_| ()).unwrap_err();
    assert!(second.to_string().contains("runs already"), "{second}");
    dev.cell.stop().await;
}
