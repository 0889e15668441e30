//! What the system tells of this process, under the names that Prometheus' own libraries use.

use std::{
    fs,
    sync::atomic::AtomicU64,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use rustix::{
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

/// Gauges of the process. What a system doesn't tell (only Linux has `/proc`) is 0.
#[derive(Clone, Default)]
pub(super) struct Process {
    memory: Gauge,
    cpu: Counter<f64, AtomicU64>,
    open_files: Gauge,
    max_files: Gauge,
    threads: Gauge,
}

impl Process {
    pub(super) fn register(&self, registry: &mut Registry) {
        let started = Gauge::<i64>::default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        started.set(number(now.as_secs()));
        let process = registry.sub_registry_with_prefix("process");
        process.register("start_time_seconds", "When the process started, since 1970", started);
        process.register("resident_memory_bytes", "Memory in use; 0: unknown", self.memory.clone());
        process.register("cpu_seconds", "CPU time used, by user and system", self.cpu.clone());
        process.register("open_fds", "Files and connections that are open; 0: unknown", self.open_files.clone());
        process.register("max_fds", "Files and connections that may be open; 0: no limit", self.max_files.clone());
        process.register("threads", "Threads of the process; 0: unknown", self.threads.clone());
    }

    /// Asks the system.
    pub(super) fn refresh(&self) {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let kibibytes = value("VmRSS:").and_then(|text| text.strip_suffix("kB")?.trim().parse::<u64>().ok());
        self.memory.set(number(kibibytes.unwrap_or_default() << 10));
        self.threads.set(value("Threads:").and_then(|text| text.parse().ok()).unwrap_or_default());
        let used = clock_gettime(ClockId::ProcessCPUTime);
        let seconds = used.tv_sec as f64 + used.tv_nsec as f64 / 1e9;
        // Two scrapes at once may come here in any order; a counter never goes back.
        self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
        let open = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
        self.open_files.set(number(open));
        self.max_files.set(number(getrlimit(Resource::Nofile).current.unwrap_or_default()));
    }
}

fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_tells_of_this_process() {
        let (process, mut registry, mut page) = (Process::default(), Registry::default(), String::new());
        process.register(&mut registry);
        process.refresh();
        text::encode(&mut page, &registry).unwrap();
        for name in [
            "process_resident_memory_bytes",
            "process_cpu_seconds_total",
            "process_open_fds",
            "process_max_fds",
            "process_threads",
        ] {
            let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
            assert!(value.parse::<f64>().unwrap() > 0.0, "{name} is {value}");
        }
    }
}
