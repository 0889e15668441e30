//! The task of a client: it follows the cell's list, and checks the servers that calls would like to
//! use. It ends with the client.

use std::{sync::Arc, time::Duration};

use flotilla_proto::cluster::v1::{
    GetServersRequest, Server, WatchServersRequest, WatchServersResponse, cluster_service_client::ClusterServiceClient,
    server_event::Kind as Happening, watch_servers_response::Item,
};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::{Kind, Lease, Link, Servers};
use crate::{
    backoff::Backoff,
    resume::{Heard, Line, Opening},
    retry,
};

/// How long a list is believed after its stream broke.
const FORGET: Duration = Duration::from_secs(10);
/// How long a server may tell of no leader before another one is asked: it may be cut off.
const LEADERLESS: Duration = Duration::from_secs(3);
/// How long one check may take.
const CHECK: Duration = Duration::from_secs(3);
/// The pauses before asking again a cell that doesn't tell its list, such as one of a former version.
const REFUSED: Duration = Duration::from_secs(1);
const REFUSED_MOST: Duration = Duration::from_mins(1);

pub(super) async fn run(servers: Arc<Servers>) {
    let refused = Backoff::new(REFUSED, REFUSED_MOST);
    let mut watcher =
        Watcher { servers, list: None, forget_at: None, move_at: None, refused, resume_at: None, told: false };
    let mut line = Line::new();
    let mut checks = FuturesUnordered::new();
    loop {
        let servers = watcher.servers.clone();
        let (resume_at, alarm) = (watcher.resume_at, watcher.alarm());
        let hearing = async {
            if let Some(at) = resume_at {
                tokio::time::sleep_until(at).await;
            }
            line.hear(|tried| open(&servers, tried)).await
        };
        tokio::select! {
            heard = hearing => {
                watcher.resume_at = None;
                if watcher.take(heard) {
                    line.works();
                }
            }
            Some::<(Arc<Link>, bool)>((link, found)) = checks.next() => watcher.checked(&link, found),
            () = servers.wanted.notified() => {}
            () = sleep_until(alarm) => {
                if watcher.ring() {
                    line.move_on();
                }
            }
        }
        checks.extend(watcher.wanted().into_iter().map(check));
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

struct Watcher {
    servers: Arc<Servers>,
    /// A list on its way.
    list: Option<Vec<Server>>,
    /// When the list isn't believed any more, unless the stream opens again.
    forget_at: Option<Instant>,
    /// When another server is asked, unless this one hears of a leader.
    move_at: Option<Instant>,
    refused: Backoff,
    /// When to ask again after a refusal.
    resume_at: Option<Instant>,
    /// It was said that no server of the list can be reached.
    told: bool,
}

impl Watcher {
    /// Takes what the stream brought; says whether it shows that the stream works.
    fn take(&mut self, heard: Heard<WatchServersResponse>) -> bool {
        match heard {
            Heard::Opened { .. } => self.list = Some(Vec::new()),
            Heard::Message(WatchServersResponse { item: Some(Item::Event(event)) }) => match &mut self.list {
                Some(list) => {
                    if event.kind() != Happening::Left {
                        list.extend(event.server);
                    }
                }
                None => {
                    self.servers.table().apply(event, &self.servers.given);
                    self.look_for_a_leader();
                }
            },
            Heard::Message(WatchServersResponse { item: Some(Item::Heartbeat(_)) }) => {
                if let Some(list) = self.list.take() {
                    self.servers.table().replace(list, &self.servers.given);
                    self.forget_at = None;
                    self.look_for_a_leader();
                }
                self.refused.reset();
                return true;
            }
            // Of a later version.
            Heard::Message(WatchServersResponse { item: None }) => {}
            Heard::Lost { .. } => self.lost(),
            Heard::Refused(_) => {
                self.lost();
                self.resume_at = Some(Instant::now() + self.refused.next());
            }
        }
        false
    }

    fn lost(&mut self) {
        self.list = None;
        self.move_at = None;
        if self.servers.table().len() > 0 {
            self.forget_at.get_or_insert_with(|| Instant::now() + FORGET);
        }
    }

    fn look_for_a_leader(&mut self) {
        let table = self.servers.table();
        match table.has_leader() || table.len() < 2 {
            true => self.move_at = None,
            false => {
                self.move_at.get_or_insert_with(|| Instant::now() + LEADERLESS);
            }
        }
    }

    fn alarm(&self) -> Option<Instant> {
        self.forget_at.into_iter().chain(self.move_at).min()
    }

    /// A time has come; says whether to ask another server.
    fn ring(&mut self) -> bool {
        let now = Instant::now();
        if self.forget_at.take_if(|at| *at <= now).is_some() {
            self.servers.table().forget();
        }
        self.move_at.take_if(|at| *at <= now).is_some()
    }

    fn wanted(&self) -> Vec<Arc<Link>> {
        let table = self.servers.table();
        let links = self.servers.given.iter().chain(table.all()).chain(&table.remembered);
        links.filter(|link| link.begin_check()).cloned().collect()
    }

    fn checked(&mut self, link: &Link, found: bool) {
        link.end_check(found);
        let table = self.servers.table();
        let unreached = table.len() > 0 && table.all().all(|link| !link.has_worked());
        if !found && unreached && !self.told {
            self.told = true;
            tracing::debug!(
                servers = table.len(),
                address = link.name(),
                "no server of the cell's list could be reached so far; the given endpoints are used"
            );
        }
    }
}

fn open(servers: &Servers, tried: &[Arc<Link>]) -> (Lease, Opening<WatchServersResponse>) {
    let lease = servers.pick(Kind::stream(""), tried);
    let mut service = ClusterServiceClient::new(lease.channel());
    (lease, Box::pin(async move { Ok(service.watch_servers(WatchServersRequest {}).await?.into_inner()) }))
}

/// Whether a server answers, and is the one that it should be.
async fn check(link: Arc<Link>) -> (Arc<Link>, bool) {
    let mut service = ClusterServiceClient::new(link.channel());
    let answer = tokio::time::timeout(CHECK, service.get_servers(GetServersRequest {})).await;
    let found = match (link.incarnation(), answer) {
        (_, Err(_)) => false,
        (None, Ok(Ok(_))) => true,
        (None, Ok(Err(status))) => !retry::is_broken(&status),
        (Some(_), Ok(Err(_))) => false,
        (Some(incarnation), Ok(Ok(answer))) => {
            let answer = answer.into_inner();
            let itself = answer.servers.iter().find(|server| server.id == answer.answered_by);
            !incarnation.is_empty() && itself.is_some_and(|server| server.incarnation == incarnation)
        }
    };
    (link, found)
}
