//! Background tasks.

use flotilla_kit::{Placement, Task, tasks};
use tokio::sync::mpsc;

use crate::cell::Cell;

fn task(placement: Placement, started: &mpsc::UnboundedSender<()>, panics: bool) -> Task {
    let started = started.clone();
    let run = move |_| {
        let started = started.clone();
        Box::pin(async move {
            started.send(()).expect("the test listens");
            assert!(!panics, "as the test wants");
            std::future::pending::<()>().await;
        }) as _
    };
    Task { name: "test.task", placement, run: Box::new(run) }
}

#[tokio::test]
async fn tasks_run_on_the_leader_until_the_server_stops() {
    let cell = Cell::open().await;
    let (sender, mut started) = mpsc::unbounded_channel();
    let tasks = [Placement::OnLeader, Placement::OnEveryServer].map(|placement| task(placement, &sender, false));
    let running = tokio::spawn(tasks::run(cell.service(1), tasks.into()));
    for _ in 0..2 {
        started.recv().await.expect("a start");
    }
    cell.stopping.send_replace(true);
    running.await.expect("an end");
    assert!(started.try_recv().is_err(), "each started once");
}

#[tokio::test]
async fn a_task_that_panics_is_started_again() {
    let cell = Cell::open().await;
    let (sender, mut started) = mpsc::unbounded_channel();
    let _running = tokio::spawn(tasks::run(cell.service(1), vec![task(Placement::OnEveryServer, &sender, true)]));
    // Time jumps to the next timer whenever everything waits.
    tokio::time::pause();
    for _ in 0..3 {
        started.recv().await.expect("a start");
    }
}
