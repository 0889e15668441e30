//! A cell of several servers: who is asked what, and what happens when one of them fails.

use std::time::Duration;

use flotilla_client::{
    CallError, Client, Target,
    proto::{
        cluster::v1::{State, server_event::Kind},
        errors::v1::Reason,
        users::v1::{CreateUserRequest, GetUserRequest},
    },
    request_id,
    watch::{Follower, News, Users},
};
use tokio::time::Instant;
use tonic::Code;

use crate::{
    double::refusal,
    fleet::{Fleet, read, until, write},
};

#[tokio::test]
async fn writes_go_to_the_leader() {
    let fleet = Fleet::start(3).await;
    let client = fleet.settled(fleet.endpoint(2)).await;
    let before = [1, 2, 3].map(|id| fleet.writes(id).len());
    for _ in 0..20 {
        write(&client).await;
    }
    let after = [1, 2, 3].map(|id| fleet.writes(id).len());
    assert_eq!(after, [before[0] + 20, before[1], before[2]]);
}

#[tokio::test]
async fn reads_are_spread_over_the_servers() {
    let fleet = Fleet::start(3).await;
    let client = fleet.settled(fleet.endpoint(1)).await;
    let before = fleet.reads();
    for _ in 0..90 {
        read(&client).await;
    }
    for (before, after) in before.into_iter().zip(fleet.reads()) {
        assert!(after - before >= 10, "{after} after {before}");
    }
}

#[tokio::test]
async fn servers_that_are_not_ready_or_do_not_run_the_service_get_nothing() {
    let fleet = Fleet::start(3).await;
    fleet.tell(Kind::Changed, 2, |server| server.state = State::Draining.into());
    fleet.tell(Kind::Changed, 3, |server| server.services = vec!["records".to_owned()]);
    let client = fleet.client(fleet.endpoint(2)).await;
    until("the list is followed", async || {
        read(&client).await;
        fleet.reads()[0] > 0
    })
    .await;
    let before = fleet.reads();
    for _ in 0..30 {
        read(&client).await;
    }
    assert_eq!(fleet.reads(), [before[0] + 30, before[1], before[2]]);
}

#[tokio::test]
async fn a_leader_change_is_followed_while_connections_are_healthy() {
    let fleet = Fleet::start(3).await;
    let client = fleet.settled(fleet.endpoint(1)).await;
    let connections = [1, 2, 3].map(|id| fleet.seen(id, |seen| seen.connections));
    fleet.lead(3);
    until("writes go to the new leader", async || {
        write(&client).await;
        !fleet.writes(3).is_empty()
    })
    .await;
    let former = fleet.writes(1).len();
    for _ in 0..20 {
        write(&client).await;
    }
    assert_eq!(fleet.writes(1).len(), former);
    assert_eq!([1, 2, 3].map(|id| fleet.seen(id, |seen| seen.connections)), connections, "nothing was connected anew");
}

#[tokio::test]
async fn a_retry_goes_to_another_server_with_the_same_request_id() {
    for reason in [Reason::NoLeader, Reason::Starting, Reason::ShuttingDown, Reason::LogFailed, Reason::TooStale] {
        let fleet = Fleet::start(3).await;
        let client = fleet.settled(fleet.endpoint(1)).await;
        fleet.seen(1, |seen| seen.always = Some(refusal(Code::Unavailable, reason, &[], None)));
        let id = request_id();
        client.call(CreateUserRequest { request_id: id.clone(), ..Default::default() }).await.unwrap();
        assert_eq!(fleet.writes(1).last(), Some(&id), "{reason:?}");
        let elsewhere = [2, 3].map(|server| fleet.writes(server).contains(&id));
        assert_eq!(elsewhere.iter().filter(|there| **there).count(), 1, "{reason:?}");
    }
}

#[tokio::test]
async fn a_pause_that_the_server_asks_for_is_kept_though_the_retry_goes_elsewhere() {
    let fleet = Fleet::start(3).await;
    let client = fleet.settled(fleet.endpoint(1)).await;
    let pause = Duration::from_millis(300);
    fleet.seen(1, |seen| {
        seen.failures.push_back(refusal(Code::Unavailable, Reason::NoLeader, &[], Some(pause)));
    });
    let begun = Instant::now();
    write(&client).await;
    assert!(begun.elapsed() >= pause);
}

#[tokio::test]
async fn a_dead_server_is_avoided_and_its_calls_go_elsewhere() {
    let mut fleet = Fleet::start(3).await;
    let client = fleet.settled(fleet.endpoint(1)).await;
    fleet.kill(1).await;
    let begun = Instant::now();
    for _ in 0..50 {
        write(&client).await;
        read(&client).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    fleet.fail(1);
    fleet.lead(2);
    until("writes go to the new leader alone", async || {
        let before = fleet.writes(3).len();
        for _ in 0..5 {
            write(&client).await;
        }
        fleet.writes(3).len() == before
    })
    .await;
}

#[tokio::test]
async fn a_server_that_fails_is_asked_less_and_less_often_and_again_when_it_is_well() {
    let fleet = Fleet::start(2).await;
    let client = fleet.settled(fleet.endpoint(1)).await;
    let starting = refusal(Code::Unavailable, Reason::Starting, &[], None);
    fleet.seen(2, |seen| seen.always = Some(starting));
    let before = fleet.reads()[1];
    for _ in 0..200 {
        read(&client).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let tries = fleet.reads()[1] - before;
    assert!((1..=8).contains(&tries), "{tries} of 200");
    fleet.seen(2, |seen| seen.always = None);
    let failed = fleet.reads()[1];
    until("it is asked again", async || {
        read(&client).await;
        fleet.reads()[1] > failed + 5
    })
    .await;
}

#[tokio::test]
async fn a_call_that_waits_for_a_server_that_the_cell_lost_is_answered_by_another() {
    let fleet = Fleet::start(3).await;
    let client = fleet.settled(fleet.endpoint(2)).await;
    fleet.seen(1, |seen| seen.hangs = true);
    let begun = Instant::now();
    let id = request_id();
    let call = client.call(CreateUserRequest { request_id: id.clone(), ..Default::default() });
    let told = async {
        until("the leader has the call", async || fleet.writes(1).contains(&id)).await;
        // The list may come from the very server that hangs; its stream does not.
        fleet.fail(1);
    };
    let (answer, ()) = tokio::join!(call, told);
    answer.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "within its deadline of ten");
    assert!([2, 3].iter().any(|server| fleet.writes(*server).contains(&id)));
}

#[tokio::test]
async fn the_only_given_endpoint_may_die_when_the_list_is_known() {
    let mut fleet = Fleet::start(3).await;
    let client = fleet.client(fleet.endpoint(2)).await;
    until("the list is known", async || {
        write(&client).await;
        !fleet.writes(1).is_empty()
    })
    .await;
    fleet.kill(2).await;
    for _ in 0..20 {
        read(&client).await;
        write(&client).await;
    }
    until("the list is followed elsewhere", async || fleet.watchers() == 1).await;
}

#[tokio::test]
async fn one_of_several_endpoints_is_enough_at_the_start() {
    let mut fleet = Fleet::start(3).await;
    fleet.kill(1).await;
    fleet.kill(3).await;
    let begun = Instant::now();
    for _ in 0..5 {
        let client = fleet.client(fleet.endpoints()).await;
        read(&client).await;
        write(&client).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    fleet.kill(2).await;
    let error = Client::connect(&Target::new(fleet.endpoints())).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot reach {}: connection refused", fleet.endpoints()));
}

#[tokio::test]
async fn without_a_list_several_endpoints_share_the_calls_and_fail_over() {
    let mut fleet = Fleet::start(3).await;
    fleet.shared().listless = true;
    let client = fleet.client(fleet.endpoints()).await;
    until("each is used", async || {
        read(&client).await;
        fleet.reads().iter().all(|reads| *reads > 0)
    })
    .await;
    fleet.kill(1).await;
    for _ in 0..20 {
        read(&client).await;
        write(&client).await;
    }
}

#[tokio::test]
async fn a_list_of_addresses_that_cannot_be_reached_is_not_used() {
    let fleet = Fleet::start(3).await;
    let given = fleet.endpoint(1);
    for id in 1..=3 {
        // Nobody listens there.
        fleet.tell(Kind::Changed, id, |server| server.address = format!("127.0.0.1:{id}"));
    }
    let client = fleet.client(given).await;
    until("the list is there", async || fleet.watchers() == 1).await;
    let begun = Instant::now();
    for _ in 0..100 {
        read(&client).await;
        write(&client).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(fleet.reads(), [100, 0, 0]);
}

#[tokio::test]
async fn an_address_that_leads_to_another_cell_is_not_used() {
    let (fleet, stranger) = (Fleet::start(2).await, Fleet::start(1).await);
    fleet.tell(Kind::Changed, 1, |server| server.incarnation = "of the right cell".to_owned());
    let given = fleet.endpoint(2);
    let strange = stranger.endpoint(1).replace("http://", "");
    fleet.tell(Kind::Changed, 1, |server| server.address = strange);
    let client = fleet.client(given).await;
    until("it was looked at", async || {
        write(&client).await;
        stranger.seen(1, |seen| seen.connections) > 0
    })
    .await;
    for _ in 0..50 {
        write(&client).await;
        read(&client).await;
    }
    assert_eq!(stranger.seen(1, |seen| (seen.writes.len(), seen.reads)), (0, 0));
}

#[tokio::test]
async fn only_the_given_endpoint_is_called_if_that_is_asked_for() {
    let fleet = Fleet::start(3).await;
    let client = Client::connect(&Target::new(fleet.endpoint(2)).only_given()).await.unwrap();
    for _ in 0..20 {
        read(&client).await;
        write(&client).await;
    }
    assert_eq!(fleet.reads(), [0, 20, 0]);
    assert_eq!(fleet.watchers(), 0);
}

#[tokio::test]
async fn a_stream_that_breaks_goes_on_at_another_server() {
    let mut fleet = Fleet::start(3).await;
    let client = fleet.settled(fleet.endpoint(1)).await;
    let mut followers: Vec<_> = (0..6).map(|_| Follower::new(client.clone(), Users, None)).collect();
    for follower in &mut followers {
        assert!(matches!(follower.next().await.unwrap(), News::Quiet));
    }
    let streams = |fleet: &Fleet| [1, 2, 3].map(|id| fleet.seen(id, |seen| seen.streams));
    assert!(streams(&fleet).iter().all(|streams| *streams >= 1), "spread: {:?}", streams(&fleet));
    let before = streams(&fleet);
    fleet.kill(1).await;
    for follower in &mut followers {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(600) {
            let _ = tokio::time::timeout(Duration::from_millis(100), follower.next()).await;
        }
        let News::Quiet = follower.next().await.unwrap() else { panic!("the stream is not open") };
    }
    let after = streams(&fleet);
    assert_eq!(after[0], before[0]);
    assert_eq!(after[1] + after[2], before[0] + before[1] + before[2], "only those of the dead server moved");
}

#[tokio::test]
async fn a_cell_that_is_gone_is_told_within_the_deadline_and_found_again() {
    let mut fleet = Fleet::start(1).await;
    let target = Target::new(fleet.endpoint(1)).timeout(Duration::from_secs(2));
    let client = Client::connect(&target).await.unwrap();
    read(&client).await;
    fleet.kill(1).await;
    let begun = Instant::now();
    let error = client.call(GetUserRequest::default()).await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
    assert!(begun.elapsed() <= Duration::from_millis(2_100), "{:?}", begun.elapsed());
    fleet.restart(1).await;
    let begun = Instant::now();
    read(&client).await;
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_list_that_ends_is_asked_for_again() {
    let fleet = Fleet::start(3).await;
    let client = fleet.settled(fleet.endpoint(1)).await;
    fleet.end_lists();
    fleet.lead(2);
    until("the new list's leader gets the writes", async || {
        write(&client).await;
        !fleet.writes(2).is_empty() && fleet.watchers() == 1
    })
    .await;
}

#[tokio::test]
async fn the_task_ends_with_the_last_client() {
    let fleet = Fleet::start(3).await;
    let client = fleet.client(fleet.endpoint(1)).await;
    until("the list is followed", async || fleet.watchers() == 1).await;
    let another = client.acting_as("ada").unwrap();
    drop(client);
    read(&another).await;
    assert_eq!(fleet.watchers(), 1, "one task for all clones");
    drop(another);
    until("nobody follows the list", async || fleet.watchers() == 0).await;
}

#[tokio::test]
async fn only_servers_that_are_used_are_connected() {
    let fleet = Fleet::start(3).await;
    let client = fleet.client(fleet.endpoint(1)).await;
    until("the list is followed", async || fleet.watchers() == 1).await;
    for _ in 0..20 {
        write(&client).await;
    }
    assert_eq!([1, 2, 3].map(|id| fleet.seen(id, |seen| seen.connections)), [1, 0, 0]);
}
