//! Signals.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::ServeError;

/// The exit code of a process that was told to stop twice: 128 + SIGINT, as shells count.
const IMPATIENT: i32 = 130;

/// Returns a future that is done at the first SIGINT or SIGTERM. From then on a second one ends
/// the process at once; what was acknowledged is safe all the same.
///
/// # Errors
/// If signals can't be received.
pub fn signals() -> Result<impl Future<Output = ()>, ServeError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signal)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signal)?;
    Ok(async move {
        let name = next(&mut interrupt, &mut terminate).await;
        tracing::info!(signal = name, "asked to stop; a second signal stops at once");
        tokio::spawn(async move {
            let name = next(&mut interrupt, &mut terminate).await;
            tracing::warn!(signal = name, "stopping at once");
            std::process::exit(IMPATIENT);
        });
    })
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}
