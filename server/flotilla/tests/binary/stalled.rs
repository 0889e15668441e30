//! A client that opens a stream and reads nothing: it costs the server no memory, whatever comes for it.

use std::{fs, future::Future};

use flotilla_client::{Client, News, Subscription, Target};
use flotilla_proto::{
    threads::v1::{
        CreateThreadRequest, Message, PostMessageRequest, SubscribeRequest, Thread,
        threads_service_client::ThreadsServiceClient,
    },
    users::v1::{CreateUserRequest, User},
};
use futures::{StreamExt, stream};
use tokio::{task::block_in_place, time::timeout};

use crate::harness::{PATIENCE, Server, directory};

/// Bytes of a message, and how many are posted: 50 MiB.
const SIZE: usize = 64 << 10;
const POSTS: usize = 800;
/// What a stalled client may cost, beside the noise of an allocator: far less than what it didn't read.
const MOST: u64 = 24 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_nothing_costs_no_memory_while_50_mebibytes_come_for_it() {
    let without = growth(async |_| ()).await;
    let with = growth(async |client: Client| {
        let mut threads = ThreadsServiceClient::new(client.channel());
        threads.subscribe(client.request(SubscribeRequest::default())).await.unwrap().into_inner()
    })
    .await;
    eprintln!("peak of memory above the start: {without} bytes without it, {with} with it");
    assert!(with < without + MOST, "{with} bytes with it, {without} without");
}

/// How far a server's peak of memory is above where it began, after it has delivered the posts to one reader; `other`
/// holds on to a connection of its own.
async fn growth<T, F: Future<Output = T>>(other: impl FnOnce(Client) -> F) -> u64 {
    let dir = directory();
    let server = block_in_place(|| Server::start(dir.path()));
    let target = Target::new(server.endpoint()).device("reader");
    let client = Client::connect(&target).await.unwrap();
    let user = User { email: "ada@example.org".to_owned(), ..User::default() };
    let ada = client.call(CreateUserRequest { user: Some(user), ..Default::default() }).await.unwrap().id;
    let client = client.acting_as(&ada).unwrap();
    let thread = Some(Thread { display_name: "harbour".to_owned(), ..Thread::default() });
    let thread = client.call(CreateThreadRequest { thread, ..Default::default() }).await.unwrap().id;
    let _held = other(Client::connect(&target.device("stalled")).await.unwrap().acting_as(&ada).unwrap()).await;

    let mut reader = Subscription::all(&client);
    let reading = tokio::spawn(async move {
        loop {
            match timeout(PATIENCE, reader.next()).await.expect("news in time").unwrap() {
                News::Event(event) if event.sequence == POSTS as u64 + 1 => return,
                News::Event(_) | News::Started(_) | News::Quiet => {}
                news => panic!("{news:?}"),
            }
        }
    });
    let before = memory(&server, "VmRSS");
    let text = "x".repeat(SIZE);
    let posts = stream::iter(0..POSTS).map(|_| {
        let message = Some(Message { text: text.clone(), data: None });
        client.call(PostMessageRequest { thread_id: thread.clone(), message, ..Default::default() })
    });
    posts.buffer_unordered(8).for_each(async |posted| assert!(posted.is_ok(), "{posted:?}")).await;
    reading.await.unwrap();
    memory(&server, "VmHWM").saturating_sub(before)
}

/// A line of what the system knows of the server, in bytes.
fn memory(server: &Server, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.process.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}
