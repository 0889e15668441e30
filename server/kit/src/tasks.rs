//! What services do in the background: started, stopped with leadership and
//! with the server, started again when they end by themselves.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
use tokio::task::JoinSet;

use crate::{Context, Placement, Task};

/// The pause before a task that ended by itself is started again.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs a service's tasks until the server stops. Dropping the future stops
/// them at once.
pub async fn run(context: Context, tasks: Vec<Task>) {
    let mut running = JoinSet::new();
    for task in tasks {
        running.spawn(supervise(context.clone(), task));
    }
    running.join_all().await;
}

async fn supervise(context: Context, task: Task) {
    tokio::select! {
        () = context.until_shutdown() => {}
        () = repeat(&context, &task) => {}
    }
    tracing::debug!(task = task.name, "the task was stopped");
}

/// Returns only when this server will never lead again.
async fn repeat(context: &Context, task: &Task) {
    let mut leadership = context.watch_leadership();
    loop {
        if task.placement == Placement::OnLeader && leadership.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        let run = AssertUnwindSafe((task.run)(context.clone())).catch_unwind();
        tokio::select! {
            ended = run => match ended {
                Ok(()) => tracing::warn!(task = task.name, again_in = ?PAUSE, "the task ended by itself"),
                Err(_) => tracing::error!(task = task.name, again_in = ?PAUSE, "the task panicked"),
            },
            _ = leadership.wait_for(|leads| !*leads), if task.placement == Placement::OnLeader => {
                tracing::info!(task = task.name, "the task was stopped: this server no longer leads");
                continue;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
