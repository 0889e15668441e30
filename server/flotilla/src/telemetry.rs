//! What is logged, where to, and how it looks. Logs go to stderr: stdout is for data. What is traced is
//! in [`traces`].

pub(crate) mod traces;

use std::{
    fmt,
    io::{self, IsTerminal},
    time::SystemTime,
};

use flotilla_replica::trace::TARGET;
use tracing_subscriber::{
    EnvFilter,
    filter::{FilterExt, LevelFilter, ParseError, filter_fn},
    fmt::{format::Writer, time::FormatTime},
    layer::{Layer, SubscriberExt},
    reload,
    util::SubscriberInitExt,
};

use crate::{
    config::{LogFormat, Telemetry},
    log_control,
};

/// Starts logging, for the whole process, and tracing, on the runtime that this is called on. A second
/// call changes nothing.
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
    let log = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    // The current span is that of a traced request, with its trace's id.
    let log = match pretty {
        true => log.compact().with_timer(Clock).with_target(false).with_ansi(terminal && colours()).boxed(),
        false => log.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed(),
    };
    let traces = config.otlp_endpoint.as_deref().and_then(traces::start);
    let (filter, handle) = reload::Layer::new(filter);
    // An error here means that a test in this process has started logging before.
    // Spans of traces are never log lines. Without the hint, and with a layer that is none, every
    // span of every library would be made, only to be thrown away.
    let filter = filter.and(filter_fn(|metadata| metadata.target() != TARGET).with_max_level_hint(LevelFilter::TRACE));
    let registry = tracing_subscriber::registry().with(log.with_filter(filter));
    let started = match traces {
        Some(traces) => registry.with(traces).try_init(),
        None => registry.try_init(),
    };
    if started.is_ok() {
        log_control::remember(directives, move |filter| handle.reload(filter));
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
