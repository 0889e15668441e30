//! The real binary as a child process: started with a config of its own, found by the addresses in its log, killed.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use tonic::transport::{Channel, Endpoint};

/// How long a server may take until it says that it is ready.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long a server may take to stop when asked.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// How a server is started.
pub(crate) struct Setup {
    /// Holds its config and its log.
    pub(crate) folder: PathBuf,
    /// Its `data_dir`.
    pub(crate) data: PathBuf,
    /// The services that it runs.
    pub(crate) services: &'static [&'static str],
    /// Lines of its `[limits]`.
    pub(crate) limits: String,
    /// A program that starts it, with arguments; none: it is started itself.
    pub(crate) under: Vec<OsString>,
    /// Variables of its environment.
    pub(crate) environment: Vec<(&'static str, OsString)>,
}

/// A server that was started. Killed when dropped.
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
    log_begin: u64,
    api: Option<SocketAddr>,
}

impl Setup {
    /// Users and records alone: every change is a client's, for a crew to account for. Threads change rows by themselves.
    pub(crate) fn new(folder: &Path, data: &Path) -> Self {
        let (folder, data) = (folder.to_path_buf(), data.to_path_buf());
        let services = &["users", "records"];
        Self { folder, data, services, limits: String::new(), under: Vec::new(), environment: Vec::new() }
    }

    /// Starts it on free ports, and waits until it is ready.
    pub(crate) async fn start(&self) -> Server {
        let mut server = self.spawn();
        let limit = Instant::now() + START_LIMIT;
        while !server.is_ready() {
            assert!(Instant::now() < limit, "the server is not ready after {START_LIMIT:?}:\n{}", server.log());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        server
    }

    /// Starts it, and doesn't wait.
    pub(crate) fn spawn(&self) -> Server {
        let config = self.folder.join("flotilla.toml");
        let (data, limits, services) = (&self.data, &self.limits, self.services);
        let text = format!(
            "services = {services:?}\ndata_dir = {data:?}\nlisten = \"127.0.0.1:0\"\n\n[limits]\n{limits}\n\n\
             [telemetry]\nlog_format = \"json\"\n"
        );
        fs::write(&config, text).expect("the config written");
        let log = self.folder.join("server.log");
        let output = OpenOptions::new().create(true).append(true).open(&log).expect("a file for the log");
        let log_begin = output.metadata().expect("its length").len();
        let child = self.command(&config, output).spawn().expect("the server started");
        Server { child, log, log_begin, api: None }
    }

    fn command(&self, config: &Path, output: File) -> Command {
        let binary = OsString::from(env!("CARGO_BIN_EXE_flotilla"));
        let words: Vec<&OsString> = self.under.iter().chain([&binary]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg("serve").arg("--config").arg(config);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        command
    }
}

impl Server {
    /// A connection of its own.
    pub(crate) async fn connect(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", self.port())).expect("an address");
        endpoint.connect().await.unwrap_or_else(|error| panic!("connecting: {error}\n{}", self.log()))
    }

    /// The port of gRPC.
    pub(crate) fn port(&self) -> u16 {
        self.api.expect("a server that is ready").port()
    }

    /// `kill -9`; returns when the process is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
        let status = self.child.wait().expect("its end");
        assert_eq!(status.signal(), Some(9), "the server ended by itself, {status}:\n{}", self.log());
    }

    /// Asks it to stop, as SIGTERM does, and waits.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal sent");
        let limit = Instant::now() + STOP_LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().expect("the server's state") {
                return status;
            }
            assert!(Instant::now() < limit, "the server has not stopped after {STOP_LIMIT:?}:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The last of what it logged in this life.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let begin = (self.log_begin as usize).max(bytes.len().saturating_sub(8000));
        String::from_utf8_lossy(bytes.get(begin..).unwrap_or_default()).into_owned()
    }

    fn is_ready(&mut self) -> bool {
        if let Some(status) = self.child.try_wait().expect("the server's state") {
            panic!("the server ended at its start, {status}:\n{}", self.log());
        }
        self.api = ready_address(&self.log());
        self.api.is_some()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ready_address(log: &str) -> Option<SocketAddr> {
    let mut events = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let ready = events.find(|event| event["message"].as_str().is_some_and(|message| message.starts_with("ready")))?;
    ready["address"].as_str()?.parse().ok()
}
