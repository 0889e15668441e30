//! Backups as their clients meet them: whole, few at a time, and not for ever.

use std::collections::BTreeMap;

use flotilla_cluster::Cluster;
use flotilla_proto::cluster::v1::{
    BackupRequest, BackupResponse, backup_response::Part, cluster_service_server::ClusterService,
};
use flotilla_replica::{Options, Replica};
use flotilla_store::{Space, TransactionBuilder};
use futures::{StreamExt, stream::BoxStream};
use tempfile::TempDir;
use tokio::{
    sync::watch,
    time::{Duration, Instant},
};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

type Stream = BoxStream<'static, Result<BackupResponse, Status>>;

struct Server {
    cluster: Cluster,
    replica: Replica,
    stopping: watch::Sender<bool>,
    _data: TempDir,
}

impl Server {
    /// With rows of 2 MiB in all, so that a backup is several chunks.
    async fn start() -> Self {
        let data = TempDir::new().expect("a folder for data");
        let options = Options { min_free_bytes: 0, ..Options::new(data.path()) };
        let replica = Replica::open(options).await.expect("a replica");
        for number in 0_u32..8 {
            let row =
                TransactionBuilder::new(Space::new(1)).put("rows", number.to_be_bytes().to_vec(), vec![7; 256 << 10]);
            let deadline = Instant::now() + Duration::from_secs(30);
            replica.propose(row.build(), deadline).await.expect("a commit");
        }
        let (stopping, receiver) = watch::channel(false);
        Self { cluster: Cluster::new(replica.clone(), BTreeMap::new(), receiver), replica, stopping, _data: data }
    }

    async fn backup(&self) -> Result<Stream, Status> {
        self.cluster.backup(Request::new(BackupRequest {})).await.map(tonic::Response::into_inner)
    }
}

async fn part(stream: &mut Stream) -> Result<Part, Status> {
    let message = stream.next().await.expect("another message")?;
    Ok(message.part.expect("a part"))
}

#[tokio::test]
async fn a_backup_is_a_header_chunks_and_an_end_that_says_their_length_and_checksum() {
    let server = Server::start().await;
    let mut stream = server.backup().await.expect("a stream");
    let Ok(Part::Header(header)) = part(&mut stream).await else { panic!("the first message is a header") };
    assert_eq!((header.cell.as_str(), header.rows, header.format), ("flotilla", 8, 1));
    assert_eq!((header.history.as_str(), header.revision), (&*server.replica.history(), 8));
    assert!(header.time.is_some_and(|time| time.seconds > 1_700_000_000));
    let mut bytes = Vec::new();
    let end = loop {
        match part(&mut stream).await.expect("a part") {
            Part::Chunk(chunk) => {
                assert!(!chunk.is_empty() && chunk.len() <= 1 << 20, "a chunk of {} bytes", chunk.len());
                bytes.extend_from_slice(&chunk);
            }
            Part::End(end) => break end,
            Part::Header(_) => panic!("a second header"),
        }
    };
    assert_eq!((end.length, end.crc32c), (bytes.len() as u64, crc32c::crc32c(&bytes)));
    assert!(bytes.starts_with(b"FLOTSNAP") && bytes.len() > 2 << 20);
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_third_backup_is_refused_until_one_of_two_has_gone() {
    let server = Server::start().await;
    let (first, second) = (server.backup().await.expect("a stream"), server.backup().await.expect("a stream"));
    let Err(refused) = server.backup().await else { panic!("a third backup") };
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let details = refused.get_error_details();
    assert_eq!(details.error_info().expect("an ErrorInfo").reason, "OVERLOADED");
    assert!(details.retry_info().is_some_and(|info| info.retry_delay.is_some()));
    drop(first);
    let deadline = Instant::now() + Duration::from_secs(20);
    while server.backup().await.is_err() {
        assert!(Instant::now() < deadline, "a place is given back when its client has gone");
        tokio::task::yield_now().await;
    }
    drop(second);
}

#[tokio::test]
async fn a_client_that_takes_nothing_for_a_minute_loses_its_backup() {
    let server = Server::start().await;
    let mut stream = server.backup().await.expect("a stream");
    assert!(matches!(part(&mut stream).await, Ok(Part::Header(_))));
    let _second = server.backup().await.expect("a stream");
    assert!(server.backup().await.is_err(), "two are under way");
    tokio::time::pause();
    // Nothing else runs on this thread meanwhile, so the place is the stalled backup's.
    let deadline = Instant::now() + Duration::from_secs(300);
    while server.backup().await.is_err() {
        assert!(Instant::now() < deadline, "the stalled client keeps its place");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::resume();
    let status = loop {
        match part(&mut stream).await {
            Ok(Part::End(_)) => panic!("it was cut"),
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("took nothing"), "{status:?}");
}

#[tokio::test]
async fn a_server_that_stops_ends_its_backups() {
    let server = Server::start().await;
    let mut stream = server.backup().await.expect("a stream");
    assert!(matches!(part(&mut stream).await, Ok(Part::Header(_))));
    server.stopping.send_replace(true);
    let status = loop {
        match part(&mut stream).await {
            Ok(Part::End(_)) => panic!("it was cut"),
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable);
}
