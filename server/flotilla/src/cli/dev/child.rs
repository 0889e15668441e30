//! One server's process: started with a pipe that tells it when this process has gone, heard line by
//! line, and told of signals.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::SystemTime,
};

use anstyle::{AnsiColor, Style};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::{mpsc, watch};

use crate::cli::talk;

/// A process that was started.
pub(super) struct Child {
    pub(super) pid: u32,
    pub(super) since: SystemTime,
    signals: mpsc::Sender<Signal>,
    ended: watch::Receiver<bool>,
}

/// Signals that may wait for a process.
const SIGNALS: usize = 4;

impl Child {
    /// Starts a server; `noticed` is called once, when it has ended.
    pub(super) fn start(
        id: u64,
        mut command: Command,
        noticed: impl FnOnce(u32, ExitStatus) + Send + 'static,
    ) -> io::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        // A group of its own: what is typed at the terminal reaches this process, which passes it on once.
        command.process_group(0);
        let mut process = tokio::process::Command::from(command).spawn()?;
        let pid = process.id().unwrap_or_default();
        if let Some(stderr) = process.stderr.take() {
            let log = File::from(stderr.into_owned_fd()?);
            thread::Builder::new().name(format!("log of server {id}")).spawn(move || pass_on(id, log))?;
        }
        let (signals, orders) = mpsc::channel(SIGNALS);
        let (over, ended) = watch::channel(false);
        tokio::spawn(async move {
            let status = mind(process, orders).await;
            noticed(pid, status);
            over.send_replace(true);
        });
        Ok(Self { pid, since: SystemTime::now(), signals, ended })
    }

    /// Sends a signal, unless it has ended.
    pub(super) fn signal(&self, signal: Signal) {
        // Full: it has been told often enough. Closed: it has ended.
        let _ = self.signals.try_send(signal);
    }

    /// Turns true when it has ended.
    pub(super) fn ended(&self) -> watch::Receiver<bool> {
        self.ended.clone()
    }
}

/// Waits for its end. Only who waits for a process may send it signals: after that, its number could be
/// another's.
async fn mind(mut process: tokio::process::Child, mut orders: mpsc::Receiver<Signal>) -> ExitStatus {
    // The pipe ends with this process, whatever ends it.
    let _stdin = process.stdin.take();
    loop {
        tokio::select! {
            status = process.wait() => return status.unwrap_or_default(),
            Some(signal) = orders.recv() => {
                let pid = process.id().and_then(|pid| Pid::from_raw(pid as i32));
                if let Some(pid) = pid {
                    // It may have ended just now.
                    let _ = kill_process(pid, signal);
                }
            }
        }
    }
}

const COLOURS: [AnsiColor; 5] =
    [AnsiColor::Cyan, AnsiColor::Magenta, AnsiColor::Green, AnsiColor::Blue, AnsiColor::Yellow];

/// The style of what is about a server.
pub(super) fn style(id: u64) -> Style {
    COLOURS[id as usize % COLOURS.len()].on_default()
}

/// Says what a server logs, its number before each line.
fn pass_on(id: u64, log: File) {
    let style = style(id);
    for line in BufReader::new(log).split(b'\n').map_while(Result::ok) {
        talk::say(&format!("{style}{id} |{style:#} {}", String::from_utf8_lossy(&line)));
    }
}

/// How a process ended, in words.
pub(super) fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown reason".to_owned(),
    }
}
