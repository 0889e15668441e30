//! What is logged, where to, and how it looks. Logs go to stderr: stdout is for data.

use std::{
    fmt,
    io::{self, IsTerminal},
    time::SystemTime,
};

use tracing_subscriber::{
    EnvFilter,
    filter::ParseError,
    fmt::{format::Writer, time::FormatTime},
};

use crate::{
    config::{LogFormat, Telemetry},
    log_control,
};

/// Starts logging, for the whole process. A second call changes nothing.
///
/// # Errors
/// If `telemetry.log` is neither a level nor directives.
pub fn start(config: &Telemetry) -> Result<(), ParseError> {
    let directives = directives(&config.log);
    let filter = EnvFilter::builder().parse(&directives)?;
    let terminal = io::stderr().is_terminal();
    let pretty = match config.log_format {
        LogFormat::Auto => terminal,
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // An error here means that a test in this process has started logging before.
    match pretty {
        true => {
            let log = log.compact().with_timer(Clock).with_target(false).with_ansi(terminal && colours());
            let log = log.with_filter_reloading();
            let handle = log.reload_handle();
            if log.try_init().is_ok() {
                log_control::remember(directives, move |filter| handle.reload(filter));
            }
        }
        false => {
            let log = log.json().flatten_event(true).with_current_span(false).with_span_list(false);
            let log = log.with_filter_reloading();
            let handle = log.reload_handle();
            if log.try_init().is_ok() {
                log_control::remember(directives, move |filter| handle.reload(filter));
            }
        }
    }
    Ok(())
}

/// Raft's library tells every step of its own life, and warns of the ordinary ones. It is heard when
/// something fails, or when the directives name it.
pub(crate) fn directives(log: &str) -> String {
    match log.contains("openraft") {
        true => log.to_owned(),
        false => format!("{log},openraft=error"),
    }
}

/// Whether colours are welcome on a terminal: <https://no-color.org>.
fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Only the time of day (UTC), to the millisecond: whoever reads this log is there.
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        w.write_str(now.get(11..23).unwrap_or(&now))
    }
}
