//! Subscribers of a server that was restored from a backup: what they knew counts in another history, and they are
//! told so, read anew, and go on.

use std::{path::Path, time::Duration};

use flotilla_client::{
    Client, News, Pages, Subscription, Target,
    proto::{
        errors::v1::Reason,
        threads::v1::{
            AckRequest, CreateThreadRequest, Event, ListEventsRequest, Message, PostMessageRequest, Thread,
            ThreadCursor, ThreadReset, event::Kind,
        },
        users::v1::{CreateUserRequest, User},
    },
};
use rustix::process::Signal;
use serde_json::Value;
use tokio::{task::block_in_place, time::timeout};

use crate::harness::{Ended, PATIENCE, Process, Server, directory, flotilla, until};

/// The next news that says something.
async fn next(subscription: &mut Subscription) -> News {
    loop {
        match timeout(PATIENCE, subscription.next()).await.expect("news in time").unwrap() {
            News::Quiet => {}
            news => return news,
        }
    }
}

/// The next events' sequences; all of them are acknowledged.
async fn read(subscription: &mut Subscription, count: usize) -> Vec<u64> {
    let mut sequences = Vec::new();
    while sequences.len() < count {
        match next(subscription).await {
            News::Event(event) => {
                subscription.ack(&event);
                sequences.push(event.sequence);
            }
            News::Started(_) => {}
            news => panic!("expected an event, got {news:?}"),
        }
    }
    sequences
}

async fn post(client: &Client, thread: &str, text: &str) -> Event {
    let message = Some(Message { text: text.to_owned(), data: None });
    client.call(PostMessageRequest { thread_id: thread.to_owned(), message, ..Default::default() }).await.unwrap()
}

async fn close(subscription: Subscription) {
    subscription.close(Duration::from_secs(10)).await.unwrap();
}

/// A reset, which must come first, to a history that isn't this one.
async fn reset(subscription: &mut Subscription, former: &str) -> ThreadCursor {
    let News::Reset(ThreadReset { reason, message, cursor: Some(cursor) }) = next(subscription).await else {
        panic!("expected a reset")
    };
    assert_eq!(reason, Reason::HistoryChanged as i32, "{message}");
    assert_ne!(cursor.history, former);
    cursor
}

/// Everything that there is up to a place.
async fn rescan(client: &Client, to: &ThreadCursor) -> Vec<u64> {
    let request = ListEventsRequest { thread_id: to.thread_id.clone(), ..Default::default() };
    let mut pages = Pages::new(client, request);
    let mut found = Vec::new();
    while let Some(page) = pages.next(2).await.unwrap() {
        found.extend(page.items.iter().map(|event| event.sequence).filter(|sequence| *sequence <= to.sequence));
    }
    found
}

async fn client(server: &Server, user: &str) -> Client {
    Client::connect(&Target::new(server.endpoint()).user(user)).await.unwrap()
}

fn watch(server: &Server, user: &str) -> Process {
    Process::start(&mut server.command(&["threads", "watch", "--as", user, "--device", "terminal"]))
}

fn restored(file: &Path, data_dir: &Path) -> Server {
    let made = Ended::of(flotilla(&["restore"]).arg("--in").arg(file).arg("--data-dir").arg(data_dir));
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    Server::start(data_dir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_kept_across_restore_is_refused_and_recovers_by_a_rescan() {
    let dir = directory();
    let file = dir.path().join("b.flotilla");
    let server = block_in_place(|| Server::start(&dir.path().join("data")));
    let nobody = Client::connect(&Target::new(server.endpoint())).await.unwrap();
    let user = User { email: "ada@example.org".to_owned(), display_name: "Ada".to_owned(), ..User::default() };
    let ada = nobody.call(CreateUserRequest { user: Some(user), ..Default::default() }).await.unwrap().id;
    let before = client(&server, &ada).await;
    let thread = Some(Thread { display_name: "harbour".to_owned(), ..Thread::default() });
    let thread = before.call(CreateThreadRequest { thread, ..Default::default() }).await.unwrap().id;
    for number in 2..=6 {
        post(&before, &thread, &format!("message {number}")).await;
    }
    // Two devices have stored how far they are, before the backup.
    let mut phone = Subscription::all(&before.on_device("phone").unwrap());
    assert_eq!(read(&mut phone, 6).await, [1, 2, 3, 4, 5, 6]);
    close(phone).await;
    block_in_place(|| {
        let mut terminal = watch(&server, &ada);
        terminal.stdout("the last message", |line| line.contains("message 6"));
        terminal.signal(Signal::INT);
        assert_eq!(terminal.wait().code(), Some(0));
        server.json(&["backup", "--out", file.to_str().unwrap()]);
    });
    // What comes after it is lost, and a third device has seen it.
    for number in 7..=10 {
        post(&before, &thread, &format!("message {number}")).await;
    }
    let mut laptop = Subscription::all(&before.on_device("laptop").unwrap());
    assert_eq!(read(&mut laptop, 10).await, (1..=10).collect::<Vec<_>>());
    let kept = laptop.cursors();
    let former = kept[0].history.clone();
    assert_eq!((kept.len(), kept[0].sequence), (1, 10));
    drop((laptop, server));

    let server = block_in_place(|| restored(&file, &dir.path().join("fresh")));
    let after = client(&server, &ada).await;
    assert_eq!(post(&after, &thread, "another message 7").await.sequence, 7);

    // Cursors of the client's own.
    let laptop = after.on_device("laptop").unwrap();
    let mut following = Subscription::all(&laptop).after(kept.clone());
    let place = reset(&mut following, &former).await;
    assert_eq!(rescan(&laptop, &place).await, (1..=place.sequence).collect::<Vec<_>>());
    assert_eq!(place.sequence, 7);
    post(&after, &thread, "message 8 again").await;
    assert_eq!(read(&mut following, 1).await, [8]);
    assert_eq!(following.cursors(), [ThreadCursor { sequence: 8, ..place.clone() }]);

    // What the server had stored.
    let phone = after.on_device("phone").unwrap();
    let mut following = Subscription::all(&phone);
    let place = reset(&mut following, &former).await;
    assert_eq!(rescan(&phone, &place).await, (1..=8).collect::<Vec<_>>());
    following.acknowledger().ack_to(&place);
    post(&after, &thread, "message 9 again").await;
    assert_eq!(read(&mut following, 1).await, [9]);
    close(following).await;
    let mut again = Subscription::all(&phone);
    let News::Started(started) = next(&mut again).await else { panic!("a device that read anew is at home again") };
    assert_eq!(started, ThreadCursor { sequence: 9, ..place });

    // What else takes a place.
    let refused = laptop.call(AckRequest { cursors: kept, ..Default::default() }).await.unwrap_err();
    assert_eq!(refused.refusal().unwrap().known_reason(), Some(Reason::HistoryChanged));
    let request =
        ListEventsRequest { thread_id: thread.clone(), after_sequence: 3, history: former, ..Default::default() };
    let refused = laptop.call(request).await.unwrap_err();
    assert_eq!(refused.refusal().unwrap().known_reason(), Some(Reason::HistoryChanged));

    // A person at a terminal is told, sees everything, and then what comes.
    let posted = post(&after, &thread, "message 10 again").await;
    assert!(matches!(posted.kind, Some(Kind::Message(_))));
    let terminal = block_in_place(|| {
        let terminal = watch(&server, &ada);
        terminal.stdout("the reset", |line| line.contains("HISTORY_CHANGED"));
        terminal.stderr("what it means", |line| line.contains("what is kept of the thread is listed now"));
        terminal.stdout("the end of the list", |line| line.contains("snapshot") && line.contains("message 10 again"));
        terminal
    });
    post(&after, &thread, "news").await;
    block_in_place(|| until("the news", || terminal.lines().iter().any(|line| line.contains("news"))));
    let lines: Vec<Value> = terminal.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let sequences = |what: &str| -> Vec<String> {
        let of = lines.iter().filter_map(|line| line.pointer(&format!("/{what}/sequence")).and_then(Value::as_str));
        of.map(str::to_owned).collect()
    };
    assert_eq!(sequences("snapshot"), (1..=10).map(|n: u64| n.to_string()).collect::<Vec<_>>());
    assert_eq!(sequences("event"), ["11"]);
}
