//! How a server ends.

use std::time::{Duration, Instant};

use flotilla_proto::users::v1::{WatchUsersRequest, users_service_client::UsersServiceClient};
use rustix::process::Signal;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::harness::{Server, directory};

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_streams_with_unavailable_and_the_process_with_0_within_the_bound() {
    let dir = directory();
    let mut server = Server::start(dir.path());
    let mut users = UsersServiceClient::new(server.channel().await);
    let mut stream = users.watch_users(WatchUsersRequest { cursor: None }).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();

    let asked = Instant::now();
    server.process.signal(Signal::TERM);
    let ended = stream.message().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    assert_eq!(server.process.wait().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_watcher_hears_that_the_server_drains() {
    let dir = directory();
    let mut server = Server::start(dir.path());
    let mut health = HealthClient::new(server.health_channel().await);
    let service = "flotilla.users.v1.UsersService".to_owned();
    let mut stream = health.watch(HealthCheckRequest { service }).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    server.process.signal(Signal::TERM);
    assert_eq!(stream.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(server.process.wait().code(), Some(0));
}

#[test]
fn a_second_signal_stops_a_draining_server_at_once() {
    let dir = directory();
    let flags = ["--listen", "127.0.0.1:0", "--set", "limits.drain_delay=1h"];
    let mut server = Server::start_with(dir.path(), &flags);
    server.process.signal(Signal::TERM);
    server.process.stderr("the first signal", |line| line.contains("asked to stop"));
    server.process.signal(Signal::INT);
    assert_eq!(server.process.wait().code(), Some(130));
}
