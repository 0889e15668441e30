//! Ctrl-C and SIGTERM: noticed between and inside the cells, so that every server that was started is ended.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::signal::unix::{SignalKind, signal};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Listens for both signals from now on, on a thread of its own.
pub(crate) fn listen() {
    thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            INTERRUPTED.store(true, Ordering::Relaxed);
            std::io::Result::Ok(())
        })
    });
}

/// An error once a person asked to stop.
pub(crate) fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted: what was started is stopped");
    }
    Ok(())
}

/// Sleeps until `moment`, or fails within 50 ms when a person asks to stop.
pub(crate) fn sleep_until(moment: Instant) -> Result<()> {
    loop {
        check()?;
        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(50)));
    }
}

/// Sleeps for `time`, as [`sleep_until`].
pub(crate) fn sleep(time: Duration) -> Result<()> {
    sleep_until(Instant::now() + time)
}
