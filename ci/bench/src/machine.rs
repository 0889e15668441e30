//! The machine and the programs that the figures belong to, as far as the system tells them.

use std::fs::read_to_string;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Serialize;

use crate::process::program;

/// Above this the machine is not this program's alone.
const QUIET_PERCENT: f64 = 5.0;

/// Where and with what a table was made.
#[derive(Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) memory: String,
    /// Type and source of the file system that holds the data.
    pub(crate) disk: String,
    /// How much of the processors others used in the second before: a busy machine flushes and answers later.
    pub(crate) busy_before_percent: Option<f64>,
    pub(crate) peers: Vec<String>,
}

impl Machine {
    /// As it is now; `folder` is where the data are.
    pub(crate) fn here(folder: &Path) -> Self {
        let unknown = || "unknown".to_owned();
        let field = |file, name| {
            let text = read_to_string(file).ok()?;
            let line = text.lines().find(|line| line.starts_with(name))?.to_owned();
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let kernel = read_to_string("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned());
        Self {
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: kernel.unwrap_or_else(|_| std::env::consts::OS.to_owned()),
            memory: field("/proc/meminfo", "MemTotal").unwrap_or_else(unknown),
            disk: file_system(folder).unwrap_or_else(unknown),
            busy_before_percent: busy_percent(Duration::from_secs(1)),
            peers: ["etcd", "nats-server", "redis-server", "strace"].map(version).into(),
        }
    }

    /// The machine in one line of text, the peers in another; a third when others were busy.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "{}, {} cores, {}, kernel {}, data on {}\n{}",
            self.processor,
            self.cores,
            self.memory,
            self.kernel,
            self.disk,
            self.peers.join("; "),
        );
        if let Some(busy) = self.busy_before_percent.filter(|busy| *busy > QUIET_PERCENT) {
            text.push_str(&format!(
                "\nNot alone: others used {busy:.0} % of the processors just before; times mean little."
            ));
        }
        text
    }
}

/// The share of the processors' time that was not idle.
fn busy_percent(during: Duration) -> Option<f64> {
    let first = processor_ticks(&read_to_string("/proc/stat").ok()?)?;
    std::thread::sleep(during);
    let last = processor_ticks(&read_to_string("/proc/stat").ok()?)?;
    let (idle, all) = (last.0 - first.0, last.1 - first.1);
    (all > 0).then(|| 100.0 * (1.0 - idle as f64 / all as f64))
}

/// Idle ticks and all ticks; waiting for the disk is idling.
fn processor_ticks(stat: &str) -> Option<(u64, u64)> {
    let fields = stat.lines().next()?.split_whitespace().skip(1).take(8);
    let ticks: Vec<u64> = fields.map(|field| field.parse().unwrap_or_default()).collect();
    Some((ticks.get(3)? + ticks.get(4)?, ticks.iter().sum()))
}

/// The mount with the longest path that the folder lies in.
fn file_system(folder: &Path) -> Option<String> {
    let mounts = read_to_string("/proc/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (source, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
        folder.starts_with(point).then(|| (point.len(), format!("{kind} ({source})")))
    });
    mounts.max_by_key(|(length, _)| *length).map(|(_, text)| text)
}

fn version(name: &str) -> String {
    let Some(path) = program(name) else {
        return format!("{name}: not found");
    };
    let output = Command::new(path).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    format!("{name}: {}", text.lines().next().unwrap_or("version unknown").trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_the_disk_counts_as_idle() {
        let stat = "cpu  10 0 20 60 10 0 0 0 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(processor_ticks(stat), Some((70, 100)));
    }
}
