//! The servers that a client may call, and which of them a call goes to.
//!
//! Two sources tell of servers: the endpoints that were given, and the cell's own list, which a task
//! follows while a client lives ([`watcher`]). What a call asks for decides among them:
//!
//! 1. what changes something: the leader;
//! 2. everything: the ready servers of the list that run the service;
//! 3. the endpoints that were given, with those servers of a former list that could be reached;
//! 4. if none of them seems to work: the one that is worth a try first, as a failure must come from
//!    somewhere.
//!
//! Among several the less busy of two random ones is taken. A server of the list is called only when
//! it was checked to be the one that the list means: an address of another network may lead nowhere,
//! or to a server of another cell. The check happens beside the calls, none of which waits for it.
//!
//! * `endpoints`: the addresses that were given.
//! * `link`: one server, its connection, and whether it works.
//! * `table`: the cell's list.
//! * `watcher`: the task that follows the list and checks servers.

pub(crate) mod endpoints;
mod link;
mod table;
mod watcher;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{sync::Notify, task::AbortHandle, time::Instant};
use tonic::transport::Channel;

pub(crate) use self::link::{Lease, Link};
use self::{link::Readiness, table::Table};
use crate::{CallError, Target, error::root_cause};

/// What decides where a call may go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Kind {
    /// The short name of the service; empty: every server will do.
    pub(crate) service: &'static str,
    pub(crate) does: Does,
}

/// What a call does with a server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Does {
    Read,
    Change,
    /// It stays, mostly silent: streams are counted for themselves.
    Stream,
}

impl Kind {
    /// Something that any server answers.
    pub(crate) const ANY: Self = Self { service: "", does: Does::Read };

    pub(crate) const fn stream(service: &'static str) -> Self {
        Self { service, does: Does::Stream }
    }
}

/// The servers of a client and its clones. When the last of these is dropped, its task ends.
#[derive(Debug)]
pub(crate) struct Cell {
    servers: Arc<Servers>,
    task: Option<AbortHandle>,
}

impl Cell {
    /// Follows the cell's list unless the target says otherwise, and connects when a call comes.
    pub(crate) fn new(target: &Target) -> Result<Self, CallError> {
        Ok(Self::of(endpoints::parse(&target.endpoint, target.timeout)?, !target.only_given))
    }

    fn of(given: Vec<Arc<Link>>, follow: bool) -> Self {
        let servers = Arc::new(Servers::new(given, follow));
        let task = follow.then(|| tokio::spawn(watcher::run(servers.clone())).abort_handle());
        Self { servers, task }
    }

    /// As [`new`](Self::new), once one of the target's endpoints is connected.
    pub(crate) async fn connect(target: &Target) -> Result<Self, CallError> {
        let given = endpoints::parse(&target.endpoint, target.timeout)?;
        let connecting = tokio::time::timeout(target.timeout, connect_one(&given));
        let unreachable = |reason| CallError::Unreachable { endpoint: target.endpoint.clone(), reason };
        match connecting.await {
            Ok(connected) => connected.map_err(unreachable)?,
            Err(_) => return Err(unreachable(format!("no connection within {:?}", target.timeout))),
        }
        Ok(Self::of(given, !target.only_given))
    }

    /// A connection that was made otherwise, alone.
    pub(crate) fn over(channel: Channel, name: &str) -> Self {
        Self { servers: Arc::new(Servers::new(vec![Arc::new(Link::over(channel, name))], false)), task: None }
    }

    /// Where a call goes: somewhere in any case, and to none of those that were tried if it can be helped.
    pub(crate) fn pick(&self, kind: Kind, tried: &[Arc<Link>]) -> Lease {
        self.servers.pick(kind, tried)
    }

    /// As [`pick`](Self::pick); none if only servers are left that were tried or seem not to work.
    pub(crate) fn other(&self, kind: Kind, tried: &[Arc<Link>]) -> Option<Lease> {
        self.servers.other(kind, tried)
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Tries the endpoints in a random order until one is connected, so that the first isn't everybody's.
async fn connect_one(given: &[Arc<Link>]) -> Result<(), String> {
    let first = rand::random_range(0..given.len().max(1));
    let mut reason = "no endpoint was given".to_owned();
    for link in given.iter().cycle().skip(first).take(given.len()) {
        match link.connect().await {
            Ok(()) => return Ok(()),
            Err(error) => {
                reason = root_cause(&error);
                link.failed(true);
            }
        }
    }
    Err(reason)
}

/// What the client and its task share.
#[derive(Debug)]
struct Servers {
    given: Vec<Arc<Link>>,
    table: Mutex<Table>,
    /// Somebody checks servers whose connection broke; otherwise a call has to try.
    checks: bool,
    /// A server should be checked.
    wanted: Notify,
}

impl Servers {
    fn new(given: Vec<Arc<Link>>, checks: bool) -> Self {
        Self { given, table: Mutex::default(), checks, wanted: Notify::new() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // No code that holds it panics.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pick(&self, kind: Kind, tried: &[Arc<Link>]) -> Lease {
        if let Some(lease) = self.other(kind, tried) {
            return lease;
        }
        let table = self.table();
        let now = Instant::now();
        let known = table.remembered.iter().chain(table.all()).filter(|link| link.has_worked());
        let all = self.given.iter().chain(known);
        // A pause has passed since most failed, so what was tried longest ago is worth a try first.
        let best = all.min_by_key(|link| (is_in(tried, link), link.avoided_until().unwrap_or(now)));
        match best.or(self.given.first()) {
            Some(link) => Lease::of(link, kind.does),
            // An endpoint is given in every case: parsing refuses none.
            None => Lease::of(&Arc::new(Link::nowhere()), kind.does),
        }
    }

    fn other(&self, kind: Kind, tried: &[Arc<Link>]) -> Option<Lease> {
        let table = self.table();
        let untried = |link: &&Arc<Link>| !is_in(tried, link);
        let listed: Vec<&Arc<Link>> = table.suitable(kind.service).filter(untried).collect();
        let given: Vec<&Arc<Link>> = self.given.iter().chain(&table.remembered).filter(untried).collect();
        let leader = table.leader(kind.service).filter(|link| kind.does == Does::Change && untried(link));
        // In a cell of one there is nothing to choose: the connection that is there will do.
        let (second, third) = if table.len() == 1 { (given, listed) } else { (listed, given) };
        let tiers = [leader.into_iter().collect(), second, third];
        tiers.into_iter().find_map(|tier| self.choose(tier, kind.does)).map(|link| Lease::of(&link, kind.does))
    }

    /// The less busy of two random ones that work. One that must be checked before is left out, and checked.
    fn choose(&self, mut links: Vec<&Arc<Link>>, does: Does) -> Option<Arc<Link>> {
        let now = Instant::now();
        while !links.is_empty() {
            let first = rand::random_range(0..links.len());
            // Another one, if there is another.
            let second = (first + rand::random_range(1..links.len().max(2))) % links.len();
            let [of_first, of_second] = [first, second].map(|at| links[at].outstanding(does));
            let less_busy = if of_second < of_first { second } else { first };
            match links[less_busy].readiness(now, self.checks) {
                Readiness::Works => return Some(links[less_busy].clone()),
                Readiness::Unchecked => {
                    if links[less_busy].want_check() {
                        self.wanted.notify_one();
                    }
                }
                Readiness::Avoided => {}
            }
            links.swap_remove(less_busy);
        }
        None
    }
}

fn is_in(links: &[Arc<Link>], link: &Arc<Link>) -> bool {
    links.iter().any(|other| Arc::ptr_eq(other, link))
}
