//! Background tasks.

use std::ops::Bound;

use flotilla_kit::{Error, Placement, Space, Task, tasks};
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

#[tokio::test]
async fn a_tasks_effect_and_its_cursor_move_together_and_once() {
    let cell = Cell::open().await;
    let context = cell.service(1);
    let start = context.task_cursor("test.task").await.expect("a cursor");
    assert_eq!(start.cursor, None);
    let effect = || context.transaction().append("effects", "list", "done");
    let moved = context.advance("test.task", &start, context.cursor(), effect()).await.expect("a move");
    assert_eq!(context.task_cursor("test.task").await.expect("a cursor"), moved);
    // The other run of the task, which began where this one did.
    let refused = context.advance("test.task", &start, context.cursor(), effect()).await;
    assert!(matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");
    let rows = cell.replica.store().scan(Space::new(1), "effects", (Bound::Unbounded, Bound::Unbounded));
    assert_eq!(rows.count(), 1);
}
