//! Server processes: started with their output in a file, ended by their id, and read through /proc.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::interrupt;

/// How long a server may take to stop after being asked to; then it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A process that this program started. It is killed when dropped.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
    /// Just before the process was made.
    pub(crate) started: Instant,
}

/// What a process holds in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Resident now, in MiB.
    pub(crate) resident: f64,
    /// The most that was ever resident, in MiB.
    pub(crate) peak: f64,
}

impl Process {
    /// Starts it, its output in `folder/<name>.log`.
    pub(crate) fn start(name: &'static str, mut command: Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("starting {name}: {command:?}"))?;
        Ok(Self { name, child, log, started })
    }

    /// Calls `probe` every 2 ms until it succeeds; fails when the process ends or `limit` passes.
    pub(crate) fn wait_until<T>(&mut self, limit: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
        loop {
            let error = match probe() {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended by itself ({status}): {}", self.name, self.last_words());
            }
            if self.started.elapsed() > limit {
                return Err(error.context(format!("{} doesn't answer after {limit:?}", self.name)));
            }
            interrupt::sleep(Duration::from_millis(2))?;
        }
    }

    /// Asks it to end, and waits until it has; kills it when that takes over 30 seconds.
    pub(crate) fn stop(mut self) -> Result<ExitStatus> {
        let asked = Instant::now();
        kill_process(self.pid()?, Signal::TERM)?;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if asked.elapsed() > STOP_LIMIT {
                bail!("{} was still there {STOP_LIMIT:?} after SIGTERM, and was killed", self.name);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it at once, as `kill -9` does.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// User and system time used so far, in microseconds; the kernel counts in ticks of 10 ms.
    pub(crate) fn cpu_microseconds(&self) -> Result<f64> {
        microseconds_in(&self.proc("stat")?)
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        let status = self.proc("status")?;
        let mebibytes = |name| number_after(&status, name).map(|kibibytes| kibibytes as f64 / 1024.0);
        let read = || Some(Memory { resident: mebibytes("VmRSS:")?, peak: mebibytes("VmHWM:")? });
        read().context("no VmRSS in /proc")
    }

    /// Calls of write and its kin so far.
    pub(crate) fn write_calls(&self) -> Result<u64> {
        number_after(&self.proc("io")?, "syscw:").context("no syscw in /proc")
    }

    fn proc(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.child.id());
        fs::read_to_string(&path).with_context(|| format!("reading {path} of {}", self.name))
    }

    fn pid(&self) -> Result<Pid> {
        Pid::from_raw(self.child.id().try_into()?).context("no process id")
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system time that this process used so far.
pub(crate) fn own_cpu_microseconds() -> Result<f64> {
    microseconds_in(&fs::read_to_string("/proc/self/stat")?)
}

/// A program in `.tools/bin`, or else in PATH.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let ours = std::env::current_dir().ok()?.join(".tools/bin");
    std::iter::once(ours)
        .chain(std::env::split_paths(&folders))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// A loopback address that nobody listens on.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// The sum of all samples of these metrics at `http://address/metrics`.
pub(crate) fn metrics_sum(address: SocketAddr, names: &[&str]) -> Result<u64> {
    let answer = metrics(address)?;
    sum_of(&answer, names).ok_or_else(|| anyhow!("no metric {} at http://{address}/metrics", names.join(", ")))
}

/// What `http://address/metrics` answers.
pub(crate) fn metrics(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn sum_of(exposition: &str, names: &[&str]) -> Option<u64> {
    let samples = exposition.lines().filter(|line| {
        let name = line.split([' ', '{']).next().unwrap_or_default();
        names.contains(&name)
    });
    let values = samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.map(|value| value as u64).reduce(|sum, value| sum + value)
}

fn microseconds_in(stat: &str) -> Result<f64> {
    let ticks = cpu_ticks(stat).with_context(|| format!("reading {stat:?}"))?;
    Ok(ticks as f64 * 1e6 / rustix::param::clock_ticks_per_second() as f64)
}

/// utime + stime; the process's name, which may hold anything, ends at the last bracket.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn number_after(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_past_a_name_with_brackets_and_spaces() {
        let stat = "42 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 3 0 100";
        assert_eq!(cpu_ticks(stat), Some(300));
    }

    #[test]
    fn memory_is_the_number_after_its_name() {
        assert_eq!(number_after("VmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n", "VmRSS:"), Some(1024));
        assert_eq!(number_after("Threads: 3\n", "VmRSS:"), None);
    }

    #[test]
    fn samples_of_a_metric_are_summed_and_its_longer_namesakes_are_not() {
        let exposition = "# TYPE fsyncs counter\nfsyncs{file=\"log\"} 40\nfsyncs{file=\"vote\"} 2\nfsyncs_total 1000\n";
        assert_eq!(sum_of(exposition, &["fsyncs"]), Some(42));
        assert_eq!(sum_of(exposition, &["fsync"]), None);
    }
}
