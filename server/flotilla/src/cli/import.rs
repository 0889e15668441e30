//! `flotilla records import`: lines of JSON into a table, in atomic batches, so that it can be
//! stopped at any moment and gone on with.
//!
//! A batch's request id is a hash of what it writes and where. So a batch that was sent twice,
//! because its answer was lost, counts once.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal},
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use flotilla_client::{CallError, Client, Target};
use flotilla_proto::records::v1::BatchWriteRequest;
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use prost::Message;
use tokio::sync::mpsc;
use xxhash_rust::xxh3::xxh3_128;

use super::{
    Failure, advice,
    batches::{Batch, Batches, Input, Stop},
    checkpoint::Checkpoint,
    ndjson::{BadLine, Lines, Place},
    talk,
};

/// Reads one JSON object a line, and writes them in atomic batches. Run the same command again
/// after an interruption: it goes on where it stopped.
///
/// A line is {"id": "skiff", "length_m": 4.2}, or {"id": "skiff", "document": {…}} as `records
/// list` prints it.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// The table to write to
    pub(super) table: String,
    /// The file to read [default: stdin]
    file: Option<PathBuf>,
    /// The field to take ids from, which stays in the document [default: id, which doesn't]
    #[arg(long, value_name = "FIELD")]
    pub(super) id_field: Option<String>,
    /// Records in a batch, up to 1000
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) batch: u16,
    /// Leave out so many lines, which an earlier run wrote
    #[arg(long, value_name = "LINES", default_value_t = 0, conflicts_with = "resume_file")]
    skip: u64,
    /// Where to keep how far it has come [default: FILE.flotilla-import; for stdin nowhere]
    #[arg(long, value_name = "FILE")]
    resume_file: Option<PathBuf>,
    /// Read and check all lines, and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Why an import stopped. Everything before the batch in work is written; nothing of it is, unless
/// its answer was lost.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A line can't be a record.
    #[error("{input}, line {line}{}: {reason}\n  {done}", column.map_or_else(String::new, |c| format!(", column {c}")))]
    BadLine {
        /// The file.
        input: String,
        /// From 1.
        line: u64,
        /// From 1.
        column: Option<usize>,
        /// What is wrong.
        reason: String,
        /// What is written, and how to go on.
        done: String,
    },
    /// The checkpoint is of another import.
    #[error(
        "{path} tells of an import of this file into table {table:?} with other options: repeat those, or remove it \
         to begin anew", path = .path.display()
    )]
    OtherImport {
        /// The checkpoint.
        path: PathBuf,
        /// The table it tells of.
        table: String,
    },
    /// The input isn't what it was.
    #[error(
        "{input} was changed since its first {lines} lines were imported: remove {path} to import it anew",
        path = .path.display()
    )]
    Changed {
        /// The file.
        input: String,
        /// How many lines were imported.
        lines: u64,
        /// The checkpoint.
        path: PathBuf,
    },
    /// `--skip` beyond the end.
    #[error("--skip {skip}: {input} has only {lines} lines")]
    SkippedTooFar {
        /// The file.
        input: String,
        /// As given.
        skip: u64,
        /// What it has.
        lines: u64,
    },
    /// The input can't be read.
    #[error("can't read {input}")]
    Read {
        /// The file.
        input: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The checkpoint can't be read or written.
    #[error("can't keep the place in {path}", path = .path.display())]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The server refused a batch, or didn't answer.
    #[error("{}\n  {done}", advice::told(error))]
    Call {
        /// Why.
        error: CallError,
        /// What is written, and how to go on.
        done: String,
    },
    /// A person stopped it.
    #[error("interrupted\n  {done}")]
    Interrupted {
        /// What is written, and how to go on.
        done: String,
    },
}

impl Import {
    pub(super) async fn run(self, target: &Target) -> Result<(), Failure> {
        let (mut run, batches) = Run::open(self)?;
        if run.import.dry_run {
            return Ok(run.check(batches)?);
        }
        let client = Client::connect(target).await?;
        let batches = batches.in_background();
        tokio::select! {
            result = run.write(&client, batches) => Ok(result?),
            interrupted = tokio::signal::ctrl_c() => match interrupted {
                Ok(()) => {
                    run.progress.clear();
                    Err(Box::new(ImportError::Interrupted { done: run.done() }).into())
                }
                Err(source) => Err(Failure::Runtime(source)),
            }
        }
    }
}

type Imported<T> = Result<T, Box<ImportError>>;

/// An import under way.
struct Run {
    import: Import,
    /// What to call the input.
    name: String,
    checkpoint: Option<PathBuf>,
    /// What is acknowledged.
    written: Written,
    progress: Progress,
}

/// How far an import has come.
#[derive(Debug, Clone, Copy, Default)]
struct Written {
    place: Place,
    records: u64,
    batches: u64,
}

impl Run {
    fn open(import: Import) -> Imported<(Self, Batches)> {
        let name = import.file.as_ref().map_or_else(|| "stdin".to_owned(), |file| file.display().to_string());
        let failed = |source| Box::new(ImportError::Read { input: name.clone(), source });
        let (input, length): (Box<dyn BufRead + Send>, Option<u64>) = match &import.file {
            None => (Box::new(BufReader::new(io::stdin())), None),
            Some(path) => {
                let file = File::open(path).map_err(failed)?;
                let length = file.metadata().ok().filter(|meta| meta.is_file()).map(|meta| meta.len());
                (Box::new(BufReader::with_capacity(1 << 16, file)), length)
            }
        };
        let beside = import.file.as_deref().map(Checkpoint::beside);
        let checkpoint = import.resume_file.clone().or(beside);
        let progress = Progress::new(length, import.dry_run);
        let mut batches = Batches::new(Lines::new(input), &import);
        let mut run = Self { import, name, checkpoint, written: Written::default(), progress };
        run.go_on(&mut batches.lines)?;
        Ok((run, batches))
    }

    /// Passes over what an earlier run has written.
    fn go_on(&mut self, lines: &mut Lines<Input>) -> Imported<()> {
        let former = match &self.checkpoint {
            Some(path) if self.import.skip == 0 && !self.import.dry_run => Checkpoint::read(path)
                .map_err(|source| Box::new(ImportError::Checkpoint { path: path.clone(), source }))?
                .map(|former| (path.clone(), former)),
            _ => None,
        };
        let Some((path, former)) = former else { return self.skip(lines, self.import.skip) };
        if former.table != self.import.table || former.id_field != self.import.id_field {
            return Err(Box::new(ImportError::OtherImport { path, table: former.table }));
        }
        let changed = ImportError::Changed { input: self.name.clone(), lines: former.lines, path };
        match self.skip(lines, former.lines) {
            Err(error) if matches!(*error, ImportError::SkippedTooFar { .. }) => return Err(Box::new(changed)),
            skipped => skipped?,
        }
        if lines.place().hash != former.hash {
            return Err(Box::new(changed));
        }
        self.written.records = former.records;
        talk::remark(&format!("going on after line {}, which an earlier run had reached", former.lines));
        Ok(())
    }

    fn skip(&mut self, lines: &mut Lines<Input>, skip: u64) -> Imported<()> {
        while lines.place().lines < skip {
            let line = lines.next().map_err(|source| self.stopped(Stop::Read(source)))?;
            if line.is_none() {
                let (input, lines) = (self.name.clone(), lines.place().lines);
                return Err(Box::new(ImportError::SkippedTooFar { input, skip, lines }));
            }
        }
        self.written.place = lines.place();
        self.progress.begin_at(self.written);
        Ok(())
    }

    /// Reads everything, writes nothing.
    fn check(&mut self, mut batches: Batches) -> Imported<()> {
        let mut records = 0;
        while let Some(batch) = batches.next().map_err(|stop| self.stopped(stop))? {
            records += batch.operations.len() as u64;
        }
        let lines = batches.lines.place().lines;
        talk::say(&format!("{} records in {lines} lines of {} can be imported", HumanCount(records), self.name));
        Ok(())
    }

    async fn write(&mut self, client: &Client, mut batches: mpsc::Receiver<Result<Batch, Stop>>) -> Imported<()> {
        let started = Instant::now();
        let before = self.written.records;
        while let Some(batch) = batches.recv().await {
            self.send(client, batch.map_err(|stop| self.stopped(stop))?).await?;
        }
        self.progress.clear();
        if let Some(path) = &self.checkpoint {
            // Nothing is left to go on with; without a checkpoint there is nothing to remove.
            let _ = std::fs::remove_file(path);
        }
        let (records, elapsed) = (self.written.records - before, started.elapsed());
        talk::say(&format!(
            "imported {} records into {} in {} batches, {:.1} s ({}/s)\n  try: flotilla records list {}",
            HumanCount(records),
            self.import.table,
            self.written.batches,
            elapsed.as_secs_f64(),
            HumanCount(rate(records, elapsed)),
            self.import.table,
        ));
        Ok(())
    }

    /// Writes a batch; when it returns, the place behind it is kept.
    async fn send(&mut self, client: &Client, batch: Batch) -> Imported<()> {
        let records = batch.operations.len() as u64;
        let mut request = BatchWriteRequest { operations: batch.operations, request_id: String::new() };
        request.request_id = self.request_id(&request);
        if let Err(error) = client.call(request).await {
            self.progress.clear();
            return Err(Box::new(ImportError::Call { error, done: self.done() }));
        }
        let Written { records: before, batches, .. } = self.written;
        self.written = Written { place: batch.end, records: before + records, batches: batches + 1 };
        self.progress.at(self.written);
        let Some(path) = &self.checkpoint else { return Ok(()) };
        let checkpoint = Checkpoint {
            table: self.import.table.clone(),
            id_field: self.import.id_field.clone(),
            lines: batch.end.lines,
            hash: batch.end.hash,
            records: self.written.records,
        };
        checkpoint.write(path).map_err(|source| Box::new(ImportError::Checkpoint { path: path.clone(), source }))
    }

    /// The same for the same batch at the same place.
    fn request_id(&self, request: &BatchWriteRequest) -> String {
        let mut content = request.encode_to_vec();
        content.extend_from_slice(&self.written.place.lines.to_be_bytes());
        format!("import-{:032x}", xxh3_128(&content))
    }

    fn stopped(&self, stop: Stop) -> Box<ImportError> {
        self.progress.clear();
        let input = self.name.clone();
        Box::new(match stop {
            Stop::Read(source) => ImportError::Read { input, source },
            Stop::BadLine { line, bad: BadLine { column, reason } } => {
                ImportError::BadLine { input, line, column, reason, done: self.done() }
            }
        })
    }

    /// What is written, and how to go on.
    fn done(&self) -> String {
        let Written { place: Place { lines, .. }, records, .. } = self.written;
        if self.import.dry_run {
            return "nothing was written".to_owned();
        }
        let how = match &self.checkpoint {
            Some(_) => "run the same command again to go on".to_owned(),
            None => format!("go on with --skip {lines}"),
        };
        format!(
            "{} records are written, up to line {lines}, and after it nothing but perhaps the batch in work; {how}",
            HumanCount(records)
        )
    }
}

/// What a person sees meanwhile: a bar on a terminal, a line every two seconds elsewhere.
struct Progress {
    bar: ProgressBar,
    terminal: bool,
    started: Instant,
    told: Instant,
    before: Written,
}

const TELL: Duration = Duration::from_secs(2);

impl Progress {
    fn new(length: Option<u64>, dry_run: bool) -> Self {
        let terminal = io::stderr().is_terminal() && !dry_run;
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(length, target);
        let template = match length {
            Some(_) => "{bar:30} {bytes}/{total_bytes}  {msg}  {elapsed}, {eta} left",
            None => "{spinner} {bytes}  {msg}  {elapsed}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let now = Instant::now();
        Self { bar, terminal, started: now, told: now, before: Written::default() }
    }

    fn begin_at(&mut self, written: Written) {
        self.before = written;
        self.bar.set_position(written.place.bytes);
        self.bar.reset_eta();
    }

    fn at(&mut self, written: Written) {
        let elapsed = self.started.elapsed();
        let rate = rate(written.records.saturating_sub(self.before.records), elapsed);
        let text = format!("{} records, {}/s", HumanCount(written.records), HumanCount(rate));
        if !self.terminal && self.told.elapsed() >= TELL {
            talk::say(&format!("{text}, {:.0} s", elapsed.as_secs_f64()));
            self.told = Instant::now();
        }
        self.bar.set_message(text);
        self.bar.set_position(written.place.bytes);
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn rate(records: u64, elapsed: Duration) -> u64 {
    (records as f64 / elapsed.as_secs_f64().max(0.001)) as u64
}
