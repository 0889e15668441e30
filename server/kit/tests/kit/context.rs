//! Reads and commits.

use flotilla_kit::{Error, Intent, MetricsRegistry};
use prometheus_client::{encoding::text, metrics::counter::Counter};

use crate::cell::{Cell, call, intent};

#[tokio::test]
async fn a_retry_changes_nothing_and_gets_the_first_answer() {
    let cell = Cell::open().await;
    let context = cell.service(1);
    let put = |value: &'static str| context.transaction().row_absent("t", "k").put("t", "k", value);
    let first = context.commit(&call(&[]), &intent("1"), put("a"), b"first").await.expect("a commit");
    let retry = context.commit(&call(&[]), &intent("1"), put("b"), b"second").await.expect("the first answer");
    assert!(retry.replayed && !first.replayed);
    assert_eq!((retry.revision, retry.time, &retry.results), (first.revision, first.time, &first.results));
    assert_eq!((&first.answer[..], &retry.answer[..]), (&b"first"[..], &b"first"[..]));
    let row = context.read(&call(&[])).await.expect("a view").get("t", b"k").expect("a read").expect("a row");
    assert_eq!(row.value, "a");
}

#[tokio::test]
async fn the_first_answer_is_known_before_anything_is_refused() {
    let cell = Cell::open().await;
    let context = cell.service(1);
    let first = context.first_answer(&call(&[]), &intent("1")).await.expect("an answer");
    assert_eq!(first, None);
    let committed = context.transaction().put("t", "k", "v");
    let committed = context.commit(&call(&[]), &intent("1"), committed, b"yes").await.expect("a commit");
    let first = context.first_answer(&call(&[]), &intent("1")).await.expect("an answer").expect("a retry");
    assert_eq!((first.revision, &first.answer[..]), (committed.revision, &b"yes"[..]));
    let other = Intent::of(&call(&[]), "1".into(), &"another body".to_owned()).expect("an intent");
    let refused = context.first_answer(&call(&[]), &other).await;
    assert!(matches!(refused, Err(Error::RequestIdReused)), "{refused:?}");
}

#[tokio::test]
async fn a_condition_that_does_not_hold_is_told_by_its_place() {
    let cell = Cell::open().await;
    let context = cell.service(1);
    let transaction = context.transaction().row_absent("t", "a").row_exists("t", "b").put("t", "a", "v");
    let refused = context.commit(&call(&[]), &intent("1"), transaction, b"").await;
    assert!(matches!(refused, Err(Error::Conflict { condition: 1 })), "{refused:?}");
}

#[tokio::test]
async fn an_expired_call_is_refused_before_anything_happens() {
    let cell = Cell::open().await;
    let context = cell.service(1);
    let expired = call(&[("grpc-timeout", "0n")]);
    let put = context.transaction().put("t", "k", "v");
    let refused = context.commit(&expired, &intent("1"), put, b"").await;
    assert!(matches!(refused, Err(Error::DeadlineExpired)), "{refused:?}");
    assert!(matches!(context.read(&expired).await, Err(Error::DeadlineExpired)));
    assert_eq!(cell.replica.status().revision, 0);
}

#[tokio::test]
async fn a_service_sees_its_own_space_and_no_other() {
    let cell = Cell::open().await;
    let (one, two) = (cell.service(1), cell.service(2));
    let put = one.transaction().put("t", "k", "v");
    one.commit(&call(&[]), &intent("1"), put, b"").await.expect("a commit");
    let local = call(&[("flotilla-consistency", "local")]);
    for reading in [call(&[]), local] {
        let [seen, unseen] = [one.read(&reading).await, two.read(&reading).await].map(|view| view.expect("a view"));
        assert_eq!(seen.revision(), 1);
        assert!(seen.get("t", b"k").expect("a read").is_some() && unseen.get("t", b"k").expect("a read").is_none());
    }
}

#[tokio::test]
async fn a_services_own_metrics_are_on_the_servers_page() {
    let cell = Cell::open().await;
    let page = MetricsRegistry::default();
    let (context, posts) = (cell.service(1).with_metrics(page.clone()), Counter::<u64>::default());
    context.clone().register_metrics(|registry| registry.register("flotilla_posts", "Posts", posts.clone()));
    posts.inc_by(2);
    let mut text = String::new();
    page.with(|registry| text::encode(&mut text, registry)).expect("a page");
    assert!(text.lines().any(|line| line == "flotilla_posts_total 2"), "{text}");
}
