//! A snapshot on its way from a leader to a server that lacks log.
//!
//! The receiver says from which byte on it wants the file, so a broken transfer goes on where it
//! broke. What came is believed only when it is whole: its checksum, and every record, row and hash
//! in it.

use std::{io, path::PathBuf, time::Duration};

use bytes::Bytes;
use flotilla_proto::peer::v1::{
    InstallSnapshotRequest, InstallSnapshotResponse, SnapshotOffer, install_snapshot_request::Part as Sent,
    install_snapshot_response::Part as Answered,
};
use futures::StreamExt;
use openraft::Snapshot;

use super::{Installing, Part, Reader, SnapshotFile, Snapshots, Source, meta};
use crate::{
    peer::{Answers, Introduction, Network, PeerError, Refusal, Requests, SNAPSHOT_CHUNK},
    raft::{TypeConfig, Vote, vote_from_storage, vote_to_storage},
    translate,
};

/// How long either side waits for the next piece.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the receiver may take to check and install what it got.
const INSTALL_PATIENCE: Duration = Duration::from_secs(600);

/// A snapshot that came whole.
pub(crate) type Received = openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// Sends a snapshot, and returns the receiver's vote.
pub(crate) async fn send_snapshot(
    network: &dyn Network,
    addresses: &[String],
    introduction: Introduction,
    vote: Vote,
    snapshot: &SnapshotFile,
) -> Result<Vote, PeerError> {
    let broken = |error: io::Error| PeerError::Broken(format!("the snapshot {}: {error}", snapshot.name()));
    let crc32c = snapshot.checksum().map_err(broken)?;
    let (name, length) = (snapshot.name(), snapshot.length);
    let offer = SnapshotOffer { vote: Some(vote_to_storage(&vote)), name, length, crc32c };
    let (pieces, sent) = tokio::sync::mpsc::channel(4);
    let message = |part| InstallSnapshotRequest { part: Some(part) };
    // There is room: nothing was sent before.
    let _ = pieces.send(message(Sent::Offer(offer))).await;
    let requests = tokio_stream(sent).boxed();
    let mut answers = network.install_snapshot(addresses, introduction, requests).await?;
    let Some(Answered::Offset(mut offset)) = next(&mut answers, PATIENCE).await? else {
        return Err(translate::malformed("a transfer's first answer is no offset"));
    };
    while offset < length {
        let chunk = usize::try_from(length - offset).unwrap_or(usize::MAX).min(SNAPSHOT_CHUNK);
        let mut bytes = vec![0; chunk];
        snapshot.file.read_exact_at(&mut bytes, offset).map_err(broken)?;
        offset += chunk as u64;
        let sending = pieces.send(message(Sent::Chunk(Bytes::from(bytes))));
        match tokio::time::timeout(PATIENCE, sending).await {
            Err(_) => return Err(PeerError::TimedOut(PATIENCE)),
            // The receiver has ended it, and says why.
            Ok(Err(_)) => break,
            Ok(Ok(())) => {}
        }
    }
    drop(pieces);
    match next(&mut answers, INSTALL_PATIENCE).await? {
        Some(Answered::Vote(vote)) => Ok(vote_from_storage(&vote)),
        _ => Err(translate::malformed("a transfer's last answer is no vote")),
    }
}

async fn next(answers: &mut Answers<InstallSnapshotResponse>, wait: Duration) -> Result<Option<Answered>, PeerError> {
    match tokio::time::timeout(wait, answers.next()).await {
        Ok(Some(answer)) => Ok(answer?.part),
        Ok(None) => Err(PeerError::Broken("the transfer ended without an answer".into())),
        Err(_) => Err(PeerError::TimedOut(wait)),
    }
}

fn tokio_stream<T: Send + 'static>(receiver: tokio::sync::mpsc::Receiver<T>) -> impl futures::Stream<Item = T> + Send {
    futures::stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|item| (item, receiver)) })
}

/// Takes in what a leader sends. `begin` is told the offset that was answered first.
pub(crate) async fn receive(
    snapshots: &Snapshots,
    mut requests: Requests<InstallSnapshotRequest>,
    begin: impl AsyncFnOnce(u64) -> bool,
) -> Result<(Vote, Received), PeerError> {
    let Some(Sent::Offer(offer)) = piece(&mut requests).await? else {
        return Err(translate::malformed("a transfer begins without an offer"));
    };
    let vote = translate::vote(offer.vote.as_ref())?;
    let refused = |message: String| PeerError::Refused { refusal: Refusal::NotServing, message };
    let failed = |error: io::Error| refused(format!("the snapshot {} can't be taken in: {error}", offer.name));
    let mut incoming = snapshots.incoming(&offer).map_err(failed)?;
    if !begin(incoming.received).await {
        return Err(PeerError::Broken("the sender is gone".into()));
    }
    while incoming.received < offer.length {
        let Some(Sent::Chunk(bytes)) = piece(&mut requests).await? else {
            return Err(PeerError::Broken("the transfer ended early".into()));
        };
        if bytes.len() as u64 > offer.length - incoming.received {
            return Err(translate::malformed("a transfer is longer than was said"));
        }
        incoming.file.write_all_at(&bytes, incoming.received).map_err(failed)?;
        incoming.received += bytes.len() as u64;
    }
    let snapshot = snapshots.check_incoming(&incoming, &offer).map_err(|error| {
        // It would be as bad the next time.
        snapshots.forget_incoming(&incoming);
        failed(error)
    })?;
    Ok((vote, snapshot))
}

async fn piece(requests: &mut Requests<InstallSnapshotRequest>) -> Result<Option<Sent>, PeerError> {
    match tokio::time::timeout(PATIENCE, requests.next()).await {
        Ok(request) => Ok(request.and_then(|request| request.part)),
        Err(_) => Err(PeerError::TimedOut(PATIENCE)),
    }
}

/// A file that is coming in.
pub(crate) struct Incoming {
    path: PathBuf,
    file: std::sync::Arc<dyn crate::disk::DiskFile>,
    /// Bytes that are there.
    received: u64,
}

impl Snapshots {
    /// The file for a transfer, with what an earlier one of the same snapshot has brought.
    fn incoming(&self, offer: &SnapshotOffer) -> io::Result<Incoming> {
        // The name is not a peer's to choose.
        let path = self.directory.join(format!("incoming-{:08x}-{}.partial", offer.crc32c, offer.length));
        for name in self.disk.list(&self.directory)? {
            if name.starts_with("incoming-") && self.directory.join(&name) != path {
                self.disk.remove(&self.directory.join(name))?;
            }
        }
        let free = self.disk.free_bytes(&self.directory).unwrap_or(u64::MAX);
        // The file, and the store that is made from it.
        let required = offer.length.saturating_mul(2);
        if free < required {
            let text = format!("{free} bytes are free, and it needs about {required}");
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        let file: std::sync::Arc<dyn crate::disk::DiskFile> = match self.disk.open(&path) {
            Ok(file) => file.into(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.disk.create(&path)?.into(),
            Err(error) => return Err(error),
        };
        let received = file.len()?;
        match received <= offer.length {
            true => Ok(Incoming { path, file, received }),
            false => Ok(Incoming { file: self.disk.create(&path)?.into(), path, received: 0 }),
        }
    }

    /// Believes a file that has come whole, and syncs it.
    fn check_incoming(&self, incoming: &Incoming, offer: &SnapshotOffer) -> io::Result<Received> {
        let damaged = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let snapshot = SnapshotFile {
            path: incoming.path.clone(),
            file: incoming.file.clone(),
            length: offer.length,
            installing: Some(Installing),
        };
        let checksum = snapshot.checksum()?;
        if checksum != offer.crc32c {
            return Err(damaged(format!("its checksum is {checksum:08x} and should be {:08x}", offer.crc32c)));
        }
        let source = io::BufReader::new(Source::new(incoming.file.clone())?);
        let unreadable = |error: crate::Unreadable| damaged(error.to_string());
        let (mut reader, header) = Reader::open(source).map_err(unreadable)?;
        while let Some(part) = reader.next().map_err(unreadable)? {
            match part {
                Part::Rows(_) | Part::Window(_) => {}
            }
        }
        let (cell, history) = (&self.cell.name, self.cell.history());
        if header.cell != **cell || *header.history != *history {
            let text =
                format!("it is of cell {:?}, history {:?}; this is {cell:?}, {history:?}", header.cell, header.history);
            return Err(damaged(text));
        }
        incoming.file.sync()?;
        let meta =
            meta(&header.applied.unwrap_or_default()).ok_or_else(|| damaged("its membership makes no sense".into()))?;
        Ok(Snapshot { meta, snapshot })
    }

    fn forget_incoming(&self, incoming: &Incoming) {
        // The next start removes what stays.
        let _ = self.disk.remove(&incoming.path);
    }
}
