//! What is logged, while the process runs: read and changed by `/debug/log`.
//!
//! Logging is the whole process's, and so is this.

use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::{EnvFilter, filter::ParseError, reload};

/// Bytes of directives.
const MAX_DIRECTIVES: usize = 4096;

/// What is logged now, and the way to change it.
pub struct LogControl {
    directives: Mutex<String>,
    reload: Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>,
}

/// Why what is logged was not changed.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// Nothing was said.
    #[error("directives are a level (error, warn, info, debug, trace), or such as \"info,flotilla_replica=debug\"")]
    Empty,
    /// Too much was said.
    #[error("directives have at most {MAX_DIRECTIVES} bytes")]
    TooLong,
    /// They can't be understood.
    #[error("these are neither a level (error, warn, info, debug, trace) nor directives")]
    Parse(#[from] ParseError),
    /// Logging has ended.
    #[error("logging can't be changed any more")]
    Gone(#[from] reload::Error),
}

static CONTROL: OnceLock<LogControl> = OnceLock::new();

/// Remembers how to change what is logged. The first one counts, as for logging itself.
pub(crate) fn remember(
    directives: String,
    reload: impl Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync + 'static,
) {
    let _ = CONTROL.set(LogControl { directives: directives.into(), reload: Box::new(reload) });
}

/// The control of this process's logging, if it has been started.
pub fn log_control() -> Option<&'static LogControl> {
    CONTROL.get()
}

impl LogControl {
    /// What is logged now.
    pub fn directives(&self) -> String {
        self.directives.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Logs something else from now on, until the process ends.
    ///
    /// # Errors
    /// See [`SetError`]; nothing is changed then.
    pub fn set(&self, directives: &str) -> Result<(), SetError> {
        match directives.len() {
            0 => return Err(SetError::Empty),
            length if length > MAX_DIRECTIVES => return Err(SetError::TooLong),
            _ => {}
        }
        let directives = crate::telemetry::directives(directives);
        let filter = EnvFilter::builder().parse(&directives)?;
        let mut current = self.directives.lock().unwrap_or_else(PoisonError::into_inner);
        (self.reload)(filter)?;
        *current = directives;
        Ok(())
    }
}
