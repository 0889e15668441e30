//! The socket of a `flotilla dev` that runs: a line of JSON asks, a line of JSON answers. Who may open
//! the directory may use it.

use std::{
    fs, io,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream as ClientStream,
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

use super::{
    cell::{Cell, Done, ServerState},
    place::{Place, failed},
};
use crate::cli::Failure;

/// What is asked.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    /// SIGKILL.
    Kill { server: u64 },
    /// Start again.
    Start { server: u64 },
    /// SIGTERM, and wait.
    Drain { server: u64 },
    /// So many servers in all.
    Scale { servers: u64 },
    /// Which there are.
    Status {},
}

/// What is answered.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// It was done.
    Done(Done),
    /// The servers.
    Servers(Vec<ServerState>),
    /// Nothing was done, and why.
    Refused(String),
}

/// A question is short; who asks sends it at once.
const MAX_QUESTION: u64 = 4096;
const QUESTION: Duration = Duration::from_secs(2);
/// Longer than anything takes: a scale down drains servers one after the other.
const ANSWER: Duration = Duration::from_mins(5);

/// The socket; it is gone when this is.
pub(super) struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Opens it, unless somebody answers there.
    pub(super) fn bind(place: &Place) -> Result<Self, Failure> {
        let path = place.socket();
        if ClientStream::connect(&path).is_ok() {
            return Err(Failure::DevRuns { dir: place.dir().to_owned() });
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &path)(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed("open the socket", &path))?;
        Ok(Self { listener, path })
    }

    /// Answers, one after the other, until the socket fails.
    pub(super) async fn serve(&self, cell: &Cell) -> Failure {
        loop {
            match self.listener.accept().await {
                // Who goes away in between has no answer to miss.
                Ok((stream, _)) => _ = answer(stream, cell).await,
                Err(error) => return failed("accept from the socket", &self.path)(error),
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // A socket that is left behind is removed by the next.
        let _ = fs::remove_file(&self.path);
    }
}

async fn answer(mut stream: UnixStream, cell: &Cell) -> io::Result<()> {
    let (from, mut to) = stream.split();
    let mut question = String::new();
    let mut reader = tokio::io::BufReader::new(from.take(MAX_QUESTION));
    tokio::time::timeout(QUESTION, reader.read_line(&mut question)).await??;
    let answer = match serde_json::from_str(&question) {
        Ok(request) => act(request, cell).await,
        Err(error) => Answer::Refused(format!("not understood: {error}")),
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    tokio::time::timeout(QUESTION, to.write_all(&line)).await?
}

async fn act(request: Request, cell: &Cell) -> Answer {
    let done = match request {
        Request::Kill { server } => cell.kill(server).await,
        Request::Start { server } => cell.start(server),
        Request::Drain { server } => cell.drain(server).await,
        Request::Scale { servers } => cell.scale(servers).await,
        Request::Status {} => return Answer::Servers(cell.states()),
    };
    done.map_or_else(Answer::Refused, Answer::Done)
}

/// Asks the `flotilla dev` that runs in this place.
pub(super) fn ask(place: &Place, request: &Request) -> Result<Answer, Failure> {
    let path = place.socket();
    let stream = ClientStream::connect(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::NoDev { dir: place.dir().to_owned() },
        _ => failed("open the socket", &path)(error),
    })?;
    let asked = || -> io::Result<Answer> {
        stream.set_read_timeout(Some(ANSWER))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        (&stream).write_all(&line)?;
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer)?;
        Ok(serde_json::from_str(&answer)?)
    };
    asked().map_err(failed("get an answer from", &path))
}
