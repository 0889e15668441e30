//! What happens to the cell's servers, as a stream.
//!
//! It compares the servers as they are with what it told last, after each round of questions and when
//! leadership changes. It holds one list, and no queue.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, SystemTime},
};

use flotilla_kit::Error;
use flotilla_proto::{
    cluster::v1::{Server, ServerEvent, State, WatchServersResponse, server_event::Kind, watch_servers_response::Item},
    feed::v1::Heartbeat,
};
use flotilla_replica::Replica;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::{sync::watch, time::Instant};
use tonic::Status;

use crate::servers;

/// The longest silence.
const HEARTBEAT: Duration = Duration::from_secs(20);

struct Watcher {
    replica: Replica,
    stopping: watch::Receiver<bool>,
    rounds: watch::Receiver<u64>,
    known: BTreeMap<u64, Server>,
    waiting: VecDeque<Item>,
    silent_until: Instant,
    ended: bool,
}

pub(crate) fn stream(
    replica: Replica,
    stopping: watch::Receiver<bool>,
) -> BoxStream<'static, Result<WatchServersResponse, Status>> {
    let rounds = replica.watch_servers();
    let known: BTreeMap<u64, Server> = now(&replica);
    let present = known.values().map(|server| event(Kind::Present, server.clone()));
    let waiting = present.chain([heartbeat()]).collect();
    let silent_until = Instant::now() + HEARTBEAT;
    let watcher = Watcher { replica, stopping, rounds, known, waiting, silent_until, ended: false };
    let items = stream::unfold(watcher, |mut watcher| async {
        let item = watcher.next().await?;
        watcher.silent_until = Instant::now() + HEARTBEAT;
        Some((item.map(|item| WatchServersResponse { item: Some(item) }).map_err(Status::from), watcher))
    });
    items.boxed()
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<Item, Error>> {
        loop {
            if self.ended {
                return None;
            }
            if let Some(item) = self.waiting.pop_front() {
                return Some(Ok(item));
            }
            tokio::select! {
                _ = self.stopping.wait_for(|stopping| *stopping) => {
                    self.ended = true;
                    return Some(Err(Error::ShuttingDown));
                }
                round = self.rounds.changed() => if round.is_err() {
                    self.ended = true;
                    return Some(Err(Error::ShuttingDown));
                },
                () = self.replica.until_leader_changes() => {}
                () = tokio::time::sleep_until(self.silent_until) => return Some(Ok(heartbeat())),
            }
            self.compare();
        }
    }

    fn compare(&mut self) {
        let servers = now(&self.replica);
        for (id, server) in &servers {
            let kind = match self.known.get(id) {
                None => Some(Kind::Joined),
                Some(known) => difference(known, server),
            };
            if let Some(kind) = kind {
                self.waiting.push_back(event(kind, server.clone()));
            }
        }
        for (id, server) in &self.known {
            if !servers.contains_key(id) {
                self.waiting.push_back(event(Kind::Left, server.clone()));
            }
        }
        self.known = servers;
    }
}

/// What is worth an event, the most important first.
fn difference(before: &Server, after: &Server) -> Option<Kind> {
    let (was, is) = (before.state(), after.state());
    if after.is_leader && !before.is_leader {
        return Some(Kind::LeaderChanged);
    }
    if was != State::Unreachable && is == State::Unreachable {
        return Some(Kind::Failed);
    }
    if was == State::Unreachable && is != State::Unreachable {
        return Some(Kind::Recovered);
    }
    let same = was == is
        && before.role == after.role
        && before.address == after.address
        && before.services == after.services
        && before.incarnation == after.incarnation
        && before.is_leader == after.is_leader;
    (!same).then_some(Kind::Changed)
}

fn now(replica: &Replica) -> BTreeMap<u64, Server> {
    replica.servers().into_iter().map(|status| (status.id.server, servers::message(status))).collect()
}

fn event(kind: Kind, server: Server) -> Item {
    Item::Event(ServerEvent { kind: kind.into(), server: Some(server), time: Some(SystemTime::now().into()) })
}

fn heartbeat() -> Item {
    Item::Heartbeat(Heartbeat { cursor: None, time: Some(SystemTime::now().into()) })
}
