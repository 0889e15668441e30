//! `flotilla backup`: the data of a running server in a file.
//!
//! The file has its name only when it is whole, checked and synced. Until then it is FILE.partial,
//! which is removed if anything goes wrong.

use std::{
    error::Error,
    fs::{self, File},
    io::{self, IsTerminal, Stdout, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use flotilla_client::{Client, MAX_MESSAGE, Target};
use flotilla_proto::cluster::v1::{
    BackupEnd, BackupHeader, BackupRequest, BackupResponse, backup_response::Part,
    cluster_service_client::ClusterServiceClient,
};
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tonic::Streaming;

use super::{Failure, output::Output, row, talk};

/// Saves the data of a running server in a file, as it is at one moment, while writes go on. It has
/// everything that was acknowledged before.
#[derive(Debug, Args)]
pub(super) struct Backup {
    /// The file to write, or - for stdout
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Write over a file that is there
    #[arg(long)]
    force: bool,
}

/// How long the server may take to make the backup. It reads all rows: about a second for a million.
const MAKING: Duration = Duration::from_mins(15);
/// How long it may send nothing once it sends.
const SILENCE: Duration = Duration::from_mins(1);
const TELL: Duration = Duration::from_secs(2);

impl Backup {
    pub(super) async fn run(self, target: &Target, output: &mut Output) -> Result<(), Failure> {
        let to_stdout = self.out == Path::new("-");
        if to_stdout && io::stdout().is_terminal() {
            let reason = "a backup is no text for a terminal: name a file, or send stdout to a program".to_owned();
            return Err(Failure::Argument { argument: "--out -".to_owned(), reason });
        }
        if !to_stdout {
            self.refuse_existing()?;
        }
        let client = Client::connect(&target.clone().only_given()).await?;
        let done = tokio::select! {
            done = self.save(&client, to_stdout) => done?,
            interrupted = tokio::signal::ctrl_c() => {
                return Err(interrupted.map_or_else(Failure::Runtime, |()| Failure::Interrupted {
                    left: "no backup was written".to_owned(),
                }));
            }
        };
        if !to_stdout {
            let (header, time) = (&done.header, row::time(done.header.time.as_ref()));
            let document = json!({
                "cell": header.cell, "history": header.history, "revision": header.revision, "time": time,
                "rows": header.rows, "bytes": done.bytes, "seconds": done.took.as_secs_f64(),
                "file": self.out.display().to_string(),
            });
            output.document(&document, &[Saved { done: &done, time: &time, file: &self.out }])?;
        }
        talk::say(&format!(
            "saved {} rows of cell {:?} at revision {}: {} in {:.1} s",
            HumanCount(done.header.rows),
            done.header.cell,
            done.header.revision,
            HumanBytes(done.bytes),
            done.took.as_secs_f64(),
        ));
        if !to_stdout {
            talk::remark(&format!("try: flotilla restore --in {} --data-dir NEW_DIRECTORY", self.out.display()));
        }
        Ok(())
    }

    fn refuse_existing(&self) -> Result<(), Failure> {
        match self.out.exists() && !self.force {
            true => Err(Failure::Exists { path: self.out.clone() }),
            false => Ok(()),
        }
    }

    async fn save(&self, client: &Client, to_stdout: bool) -> Result<Done, Failure> {
        let started = Instant::now();
        let mut parts = Parts::begin(client).await?;
        let header = match parts.next(MAKING).await? {
            Part::Header(header) => header,
            _ => return Err(cut("it does not begin with a header")),
        };
        let mut sink = match to_stdout {
            true => Sink::Stdout(io::stdout()),
            false => Sink::File(Partial::create(&self.out)?),
        };
        let progress = Progress::new();
        let (mut bytes, mut checksum) = (0, 0);
        let end = loop {
            match parts.next(SILENCE).await? {
                Part::Chunk(chunk) => {
                    sink.write(&chunk)?;
                    bytes += chunk.len() as u64;
                    checksum = crc32c::crc32c_append(checksum, &chunk);
                    progress.at(bytes);
                }
                Part::End(end) => break end,
                Part::Header(_) => return Err(cut("it has a second header")),
            }
        };
        progress.clear();
        if end != (BackupEnd { length: bytes, crc32c: checksum }) {
            let reason = format!(
                "{bytes} bytes came with checksum {checksum:08x}, and the server sent {} with {:08x}",
                end.length, end.crc32c
            );
            return Err(cut(&reason));
        }
        match sink {
            Sink::Stdout(mut stdout) => stdout.flush().map_err(Failure::Output)?,
            Sink::File(partial) => {
                self.refuse_existing()?;
                partial.finish(&self.out)?;
            }
        }
        Ok(Done { header, bytes, took: started.elapsed() })
    }
}

/// A backup that is whole.
struct Done {
    header: BackupHeader,
    bytes: u64,
    took: Duration,
}

fn cut(reason: &str) -> Failure {
    Failure::Cut { reason: reason.to_owned() }
}

/// The stream, each message within its time.
struct Parts<'a> {
    client: &'a Client,
    stream: Streaming<BackupResponse>,
}

impl<'a> Parts<'a> {
    async fn begin(client: &'a Client) -> Result<Self, Failure> {
        let mut service = ClusterServiceClient::new(client.channel()).max_decoding_message_size(MAX_MESSAGE);
        let call = service.backup(client.request(BackupRequest {}));
        let answer = tokio::time::timeout(SILENCE, call).await.map_err(|_| cut("the server does not answer"))?;
        let stream = answer.map_err(|status| client.failure(&status))?.into_inner();
        Ok(Self { client, stream })
    }

    async fn next(&mut self, within: Duration) -> Result<Part, Failure> {
        let message = tokio::time::timeout(within, self.stream.message()).await;
        let message = message.map_err(|_| cut(&format!("the server sent nothing for {within:?}")))?;
        let message = message.map_err(|status| match status.source() {
            // Not from the server: the connection failed.
            Some(_) => cut("the connection to the server was lost"),
            None => self.client.failure(&status).into(),
        })?;
        message.and_then(|message| message.part).ok_or_else(|| cut("it ended before its end"))
    }
}

enum Sink {
    Stdout(Stdout),
    File(Partial),
}

impl Sink {
    fn write(&mut self, chunk: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Stdout(stdout) => stdout.write_all(chunk).map_err(Failure::Output),
            Self::File(partial) => {
                let path = &partial.path;
                let failed = |source| Failure::File { operation: "write", path: path.clone(), source };
                partial.file.write_all(chunk).map_err(failed)
            }
        }
    }
}

/// FILE.partial, which goes when it is dropped.
struct Partial {
    file: File,
    path: PathBuf,
}

impl Partial {
    fn create(out: &Path) -> Result<Self, Failure> {
        let mut name = out.as_os_str().to_owned();
        name.push(".partial");
        let path = PathBuf::from(name);
        let file = File::create(&path);
        let file = file.map_err(|source| Failure::File { operation: "create", path: path.clone(), source })?;
        Ok(Self { file, path })
    }

    /// Syncs it and gives it its name, durably.
    fn finish(self, out: &Path) -> Result<(), Failure> {
        let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let failed = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| Failure::File { operation, path, source }
        };
        self.file.sync_all().map_err(failed("sync", &self.path))?;
        fs::rename(&self.path, out).map_err(failed("write", out))?;
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("sync", parent))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Renamed, it is no longer there.
        let _ = fs::remove_file(&self.path);
    }
}

/// A line of the table.
struct Saved<'a> {
    done: &'a Done,
    time: &'a str,
    file: &'a Path,
}

impl row::Row for Saved<'_> {
    const COLUMNS: &'static [&'static str] = &["CELL", "REVISION", "ROWS", "BYTES", "TIME", "FILE"];

    fn cells(&self) -> Vec<String> {
        let header = &self.done.header;
        vec![
            header.cell.clone(),
            header.revision.to_string(),
            header.rows.to_string(),
            self.done.bytes.to_string(),
            self.time.to_owned(),
            self.file.display().to_string(),
        ]
    }
}

/// What a person sees meanwhile: a spinner on a terminal, a line every two seconds elsewhere.
struct Progress {
    bar: ProgressBar,
    terminal: bool,
    started: Instant,
    told: std::cell::Cell<Instant>,
}

impl Progress {
    fn new() -> Self {
        let terminal = io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {bytes} saved, {bytes_per_sec}  {elapsed}") {
            bar.set_style(style);
        }
        let now = Instant::now();
        Self { bar, terminal, started: now, told: now.into() }
    }

    fn at(&self, bytes: u64) {
        self.bar.set_position(bytes);
        if !self.terminal && self.told.get().elapsed() >= TELL {
            talk::say(&format!("{} saved, {:.0} s", HumanBytes(bytes), self.started.elapsed().as_secs_f64()));
            self.told.set(Instant::now());
        }
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
