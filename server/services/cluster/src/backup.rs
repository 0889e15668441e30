//! Sends a backup as fast as its client takes it, and no faster.
//!
//! Between the file and the client there is never more than a chunk: the file is the queue.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use flotilla_kit::{Error, Refusal};
use flotilla_proto::{
    cluster::v1::{BackupEnd, BackupHeader, BackupResponse, backup_response::Part},
    errors::v1::Reason,
};
use flotilla_replica::{BackupError, BackupInfo, BackupPlace};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::sync::{mpsc, watch};
use tonic::Status;

/// How long a client may take nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// A backup as a stream. It is made while the stream is open already, however long that takes, and
/// given up when the client goes, takes nothing for a minute, or the server stops.
pub(crate) fn send(
    place: BackupPlace,
    mut stopping: watch::Receiver<bool>,
) -> BoxStream<'static, Result<BackupResponse, Status>> {
    let (sender, receiver) = mpsc::channel(1);
    // Why the stream ends badly. It does not go through the channel, which a stalled client leaves full.
    let failure: Arc<OnceLock<Status>> = Arc::default();
    let told = failure.clone();
    tokio::spawn(async move {
        let failed = tokio::select! {
            sent = pump(place, &sender) => sent.err(),
            () = sender.closed() => None,
            // A server that is gone stops, too.
            _ = stopping.wait_for(|stopping| *stopping) => Some(Error::ShuttingDown.into()),
        };
        if let Some(status) = failed {
            tracing::warn!(status = status.message(), "a backup was not sent to its end");
            // Set here only.
            let _ = told.set(status);
        }
    });
    let parts = stream::unfold(Some((receiver, failure)), async |state| {
        let (mut receiver, failure) = state?;
        match receiver.recv().await {
            Some(part) => Some((Ok(BackupResponse { part: Some(part) }), Some((receiver, failure)))),
            None => failure.get().cloned().map(|status| (Err(status), None)),
        }
    });
    parts.boxed()
}

async fn pump(place: BackupPlace, sender: &mpsc::Sender<Part>) -> Result<(), Status> {
    let mut backup = place.write().await.map_err(|failed| Status::from(error(failed)))?;
    offer(sender, Part::Header(header(backup.info()))).await?;
    while let Some(chunk) = backup.next_chunk().await.map_err(|failed| Status::from(error(failed)))? {
        offer(sender, Part::Chunk(chunk)).await?;
    }
    let BackupInfo { length, crc32c, .. } = *backup.info();
    offer(sender, Part::End(BackupEnd { length, crc32c })).await
}

async fn offer(sender: &mpsc::Sender<Part>, part: Part) -> Result<(), Status> {
    match tokio::time::timeout(PATIENCE, sender.send(part)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Status::cancelled("the client has gone")),
        Err(_) => Err(Status::deadline_exceeded(format!("the client took nothing of the backup for {PATIENCE:?}"))),
    }
}

fn header(info: &BackupInfo) -> BackupHeader {
    let time = prost_types::Timestamp {
        seconds: i64::try_from(info.time / 1_000_000).unwrap_or(i64::MAX),
        nanos: (info.time % 1_000_000) as i32 * 1_000,
    };
    BackupHeader {
        cell: info.cell.clone(),
        history: info.history.clone(),
        revision: info.revision,
        time: Some(time),
        format: info.format,
        rows: info.rows,
    }
}

/// Why there is no backup, as it travels.
pub(crate) fn error(error: BackupError) -> Error {
    match error {
        BackupError::TooMany { .. } | BackupError::Busy { .. } | BackupError::ChangedTooFast { .. } => {
            Refusal::new(Reason::Overloaded, format!("{error}: try again later")).into()
        }
        BackupError::DiskFull { free, required } => Error::DiskFull { free, required },
        BackupError::Read(error) => error.into(),
        BackupError::ShuttingDown => Error::ShuttingDown,
        error @ (BackupError::Diverged { .. } | BackupError::Store(_) | BackupError::Io(_)) => Error::internal(error),
    }
}
