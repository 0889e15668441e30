//! Processes under test: started with nothing of the machine's environment, heard line by line,
//! and never left behind.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The binary, knowing nothing of this machine.
pub(crate) fn flotilla(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flotilla"));
    command.args(arguments).env_clear().env("HOME", "/nonexistent").stdin(Stdio::null());
    command
}

/// A process whose output is read as it comes.
pub(crate) struct Process {
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = Lines::read(child.stdout.take().unwrap());
        let stderr = Lines::read(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the process to end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        until(&format!("process {} ends", self.pid()), || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Waits for a line on stdout.
    pub(crate) fn stdout(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.stdout.wait_for(what, wanted)
    }

    /// Waits for a line on stderr.
    pub(crate) fn stderr(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.stderr.wait_for(what, wanted)
    }

    /// The lines on stdout so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.stdout.so_far()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process has said.
struct Lines {
    shared: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Lines {
    fn read(from: impl Read + Send + 'static) -> Self {
        let shared: Arc<(Mutex<Vec<String>>, Condvar)> = Arc::default();
        let writer = shared.clone();
        thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                writer.0.lock().unwrap().push(line);
                writer.1.notify_all();
            }
        });
        Self { shared }
    }

    fn wait_for(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let (lines, news) = &*self.shared;
        let deadline = Instant::now() + PATIENCE;
        let mut lines = lines.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().find(|line| wanted(line)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what} did not come within {PATIENCE:?}; what came:\n{}", lines.join("\n"));
            lines = news.wait_timeout(lines, left).unwrap().0;
        }
    }

    fn so_far(&self) -> Vec<String> {
        self.shared.0.lock().unwrap().clone()
    }
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A server with all services.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) api: SocketAddr,
    pub(crate) health: SocketAddr,
}

impl Server {
    /// Starts on free ports and waits until it is ready.
    pub(crate) fn start(data_dir: &Path) -> Self {
        Self::start_with(data_dir, &["--listen", "127.0.0.1:0"])
    }

    /// Starts where a former one listened.
    pub(crate) fn start_at(data_dir: &Path, api: SocketAddr) -> Self {
        Self::start_with(data_dir, &["--listen", &api.to_string(), "--health-listen", "127.0.0.1:0"])
    }

    pub(crate) fn start_with(data_dir: &Path, flags: &[&str]) -> Self {
        Self::start_of("all", data_dir, flags)
    }

    /// A server of some services.
    pub(crate) fn start_of(services: &str, data_dir: &Path, flags: &[&str]) -> Self {
        let mut command = flotilla(&["serve", "--services", services, "--log-format", "json"]);
        command.arg("--data-dir").arg(data_dir).args(["--set", "limits.min_free_disk=1MiB"]).args(flags);
        let process = Process::start(&mut command);
        let address = |message: &str| {
            let line = process.stderr(message, |line| line.contains(message));
            let json: Value = serde_json::from_str(&line).unwrap();
            json["address"].as_str().unwrap().parse().unwrap()
        };
        let health = address("serving health and metrics");
        let api = address("ready, serving gRPC");
        Self { process, api, health }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.api)
    }

    pub(crate) async fn channel(&self) -> Channel {
        Endpoint::from_shared(self.endpoint()).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn health_channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.health)).unwrap().connect().await.unwrap()
    }

    /// A command line that calls this server.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = flotilla(arguments);
        command.env("FLOTILLA_ENDPOINT", self.endpoint());
        command
    }

    /// Runs a command line to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        Ended::of(&mut self.command(arguments))
    }

    /// Runs a command line that must succeed, and reads its JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let ended = self.run(arguments);
        assert_eq!(ended.code, Some(0), "flotilla {}: {}", arguments.join(" "), ended.stderr);
        serde_json::from_str(&ended.stdout).unwrap()
    }
}

/// How a process ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A directory that is gone after the test.
pub(crate) fn directory() -> TempDir {
    TempDir::new().unwrap()
}
