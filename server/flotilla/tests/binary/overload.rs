//! More than a server is made for: what is refused is told so with a time to wait, what is open goes on,
//! and afterwards everything is as before. Numbers of calls are bounded, times are not measured.

use std::{
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use flotilla_proto::{
    records::v1::{
        GetRecordRequest, PutRecordRequest, WatchRecordsRequest, WatchRecordsResponse,
        records_service_client::RecordsServiceClient,
    },
    users::v1::{ListUsersRequest, users_service_client::UsersServiceClient},
};
use tonic::{Code, Request, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;

use crate::harness::{PATIENCE, Server, directory};

fn server_with(dir: &std::path::Path, limits: &[&str]) -> Server {
    let sets = limits.iter().flat_map(|limit| ["--set", *limit]);
    Server::start_with(dir, &["--listen", "127.0.0.1:0"].into_iter().chain(sets).collect::<Vec<_>>())
}

/// A message as a user.
fn from<M>(user: &str, message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("flotilla-user", user.parse().unwrap());
    request
}

fn put(id: String) -> PutRecordRequest {
    let request_id = format!("put {id}");
    PutRecordRequest { table: "boats".into(), id, request_id, ..PutRecordRequest::default() }
}

/// That a refusal is one that a client can act on.
fn assert_shed(status: &Status) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "OVERLOADED");
    let delay = details.retry_info().and_then(|info| info.retry_delay).unwrap();
    assert!(!delay.is_zero() && delay < Duration::from_secs(5), "{delay:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_sheds_some_serves_others_and_all_afterwards() {
    let dir = directory();
    let server = server_with(dir.path(), &["limits.concurrent_requests=4"]);
    let channel = server.channel().await;
    let deadline = Instant::now() + PATIENCE;
    let (mut served, mut shed) = (0, 0);
    for round in 0.. {
        // Three times as many as are allowed, all at once.
        let calls = (0..12).map(|caller| {
            let mut client = RecordsServiceClient::new(channel.clone());
            tokio::spawn(async move {
                client.put_record(from(&format!("user {caller}"), put(format!("{round}-{caller}")))).await
            })
        });
        for call in calls.collect::<Vec<_>>() {
            match call.await.unwrap() {
                Ok(_) => served += 1,
                Err(status) => {
                    assert_shed(&status);
                    shed += 1;
                }
            }
        }
        if served >= 20 && shed >= 20 {
            break;
        }
        assert!(Instant::now() < deadline, "{served} served, {shed} refused");
    }
    let mut client = RecordsServiceClient::new(channel);
    for number in 0..20 {
        client.put_record(put(format!("after-{number}"))).await.unwrap();
    }
}

async fn watch(channel: &Channel, user: &str) -> Result<Streaming<WatchRecordsResponse>, Status> {
    let mut client = RecordsServiceClient::new(channel.clone());
    let mut stream = client.watch_records(from(user, WatchRecordsRequest::default())).await?.into_inner();
    // The first heartbeat: it is open.
    stream.message().await?;
    Ok(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greedy_caller_does_not_keep_another_from_being_served_and_gives_back_what_it_drops() {
    let dir = directory();
    let server = server_with(dir.path(), &["limits.streams=16"]);
    let channel = server.channel().await;
    let mut greedy = Vec::new();
    let refused = loop {
        match watch(&channel, "greedy").await {
            Ok(stream) => greedy.push(stream),
            Err(status) => break status,
        }
    };
    assert_shed(&refused);
    assert!(refused.message().contains("share"), "{refused:?}");
    assert_eq!(greedy.len(), 14, "an eighth is for others");
    let modest = watch(&channel, "modest").await.unwrap();
    // Streams are bounded, and calls go on.
    UsersServiceClient::new(channel.clone()).list_users(from("greedy", ListUsersRequest::default())).await.unwrap();

    drop(greedy);
    let deadline = Instant::now() + PATIENCE;
    let mut again = Vec::new();
    while again.len() < 8 {
        match watch(&channel, "greedy").await {
            Ok(stream) => again.push(stream),
            Err(status) => assert_shed(&status),
        }
        assert!(Instant::now() < deadline, "places of streams that ended are not given back");
    }
    drop(modest);
}

fn open_descriptors(server: &Server) -> Option<usize> {
    Some(std::fs::read_dir(format!("/proc/{}/fd", server.process.pid())).ok()?.count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_connects_leaves_what_is_open_and_new_ones_are_served_after_it() {
    let dir = directory();
    let server = server_with(dir.path(), &["limits.connections=50"]);
    let channel = server.channel().await;
    let mut users = UsersServiceClient::new(channel.clone());
    users.list_users(ListUsersRequest::default()).await.unwrap();
    let before = open_descriptors(&server);
    let address: SocketAddr = server.api;
    let flood = tokio::task::spawn_blocking(move || {
        (0..500).filter_map(|_| TcpStream::connect(address).ok()).collect::<Vec<_>>()
    });
    let flood = flood.await.unwrap();
    users.list_users(ListUsersRequest::default()).await.unwrap();
    server.process.stderr("it says so", |line| line.contains("too many connections"));
    if let (Some(before), Some(now)) = (before, open_descriptors(&server)) {
        assert!(now <= before + 60, "{before} descriptors before, {now} under the flood");
    }
    drop(flood);
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "no new connection is served after the flood");
        let endpoint = tonic::transport::Endpoint::from_shared(server.endpoint()).unwrap();
        let Ok(channel) = endpoint.connect().await else { continue };
        if UsersServiceClient::new(channel).list_users(ListUsersRequest::default()).await.is_ok() {
            break;
        }
    }
    users.list_users(ListUsersRequest::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_over_the_limit_is_refused_and_the_connection_goes_on() {
    let dir = directory();
    let server = server_with(dir.path(), &["limits.header_size=4KiB"]);
    let mut records = RecordsServiceClient::new(server.channel().await);
    let with = |bytes: usize| {
        let mut request = Request::new(GetRecordRequest { table: "boats".into(), id: "a".into() });
        request.metadata_mut().insert("x-large", "x".repeat(bytes).parse().unwrap());
        request
    };
    let refused = records.get_record(with(5_000)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let info = refused.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.metadata["limit"].as_str()), ("LIMIT_EXCEEDED", "header_bytes"));
    assert_eq!(info.metadata["max"], "4096");
    // So large that it isn't read: HTTP/2 itself refuses.
    let refused = records.get_record(with(12_000)).await.unwrap_err();
    assert!(!matches!(refused.code(), Code::NotFound | Code::Ok), "{refused:?}");
    let served = records.get_record(with(100)).await.unwrap_err();
    assert_eq!(served.code(), Code::NotFound, "the record isn't there, but the call was served");
}
