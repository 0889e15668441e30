//! The servers of `flotilla dev`: which of them run, and what can be done to them.

use std::{
    collections::BTreeMap,
    process::ExitStatus,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use super::{
    child::{Child, how},
    plan::{MAX_SERVERS, Plan},
};
use crate::cli::{Failure, talk};

/// How long a server that was asked to stop is waited for before it is killed: its drain, and more.
const STOP: Duration = Duration::from_secs(20);
const TELL: Duration = Duration::from_secs(2);

/// The servers. Cheap to clone.
#[derive(Clone)]
pub(super) struct Cell(Arc<Inner>);

struct Inner {
    plan: Plan,
    slots: Mutex<BTreeMap<u64, Slot>>,
    changed: Notify,
}

/// A server of the cell, whether it runs or not.
struct Slot {
    child: Option<Child>,
    /// What it was told to do, if somebody told it to end.
    asked: Option<&'static str>,
    /// How it ended.
    fate: String,
    by_itself: bool,
}

/// What a command did, in sentences.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Done {
    pub(super) said: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// Why a command did nothing.
pub(super) type Refused = String;

/// One server, as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ServerState {
    pub(super) id: u64,
    /// `running`, or how it ended.
    pub(super) state: String,
    pub(super) votes: bool,
    pub(super) pid: Option<u32>,
    /// Seconds since it was started.
    pub(super) up: Option<u64>,
    pub(super) address: String,
    pub(super) health: String,
    pub(super) data_dir: String,
}

impl Cell {
    pub(super) fn new(plan: Plan) -> Self {
        Self(Arc::new(Inner { plan, slots: Mutex::default(), changed: Notify::new() }))
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<u64, Slot>> {
        // Nobody panics while holding it.
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a server's process.
    pub(super) fn launch(&self, id: u64) -> Result<(), Failure> {
        let cell = self.clone();
        // The lock is held until the slot is filled: an end that comes at once is noticed after that.
        let mut slots = self.slots();
        let noticed = move |pid, status| cell.noticed(id, pid, status);
        let child = Child::start(id, self.0.plan.command(id), noticed).map_err(Failure::Runtime)?;
        slots.insert(id, Slot { child: Some(child), asked: None, fate: String::new(), by_itself: false });
        Ok(())
    }

    /// A server's process has ended.
    fn noticed(&self, id: u64, pid: u32, status: ExitStatus) {
        let mut slots = self.slots();
        let Some(slot) = slots.get_mut(&id) else { return };
        if slot.child.as_ref().is_some_and(|child| child.pid == pid) {
            slot.child = None;
            match slot.asked.take() {
                Some(told) => slot.fate = told.to_owned(),
                None => {
                    slot.by_itself = true;
                    slot.fate = format!("ended by itself, {}", how(status));
                    talk::warning(&format!(
                        "server {id} ended by itself, {}: its last lines say why. Start it again: flotilla dev start \
                         {id}",
                        how(status)
                    ));
                }
            }
        }
        drop(slots);
        self.0.changed.notify_waiters();
    }

    /// Returns when every server has ended, and none because somebody wanted it to.
    pub(super) async fn all_ended(&self) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.slots().values().all(|slot| slot.child.is_none() && slot.by_itself) {
                return;
            }
            changed.await;
        }
    }

    /// Kills a server, without a word to it.
    pub(super) async fn kill(&self, id: u64) -> Result<Done, Refused> {
        self.end(id, Signal::KILL, "killed").await
    }

    /// Asks a server to stop, and waits until it has.
    pub(super) async fn drain(&self, id: u64) -> Result<Done, Refused> {
        self.end(id, Signal::TERM, "stopped").await
    }

    async fn end(&self, id: u64, signal: Signal, word: &'static str) -> Result<Done, Refused> {
        self.known(id)?;
        let Some(ended) = self.tell(id, signal, word) else {
            return Ok(Done { said: vec![format!("server {id} doesn't run")], ..Done::default() });
        };
        let mut done = Done::default();
        if wait(ended, STOP).await {
            done.said.push(format!("{word} server {id}; its data stays. Start it again: flotilla dev start {id}"));
        } else {
            self.kill_one(id, "killed, because it didn't stop").await;
            done.warnings.push(format!("server {id} didn't stop within {STOP:?}, and was killed"));
        }
        done.warnings.extend(self.majority_lost());
        self.told(&done);
        Ok(done)
    }

    /// Starts a server that doesn't run.
    pub(super) fn start(&self, id: u64) -> Result<Done, Refused> {
        self.known(id)?;
        if self.slots().get(&id).is_some_and(|slot| slot.child.is_some()) {
            return Ok(Done { said: vec![format!("server {id} runs already")], ..Done::default() });
        }
        self.0.plan.check_ports(id).and_then(|()| self.launch(id)).map_err(|failure| failure.to_string())?;
        let said = vec![format!("started server {id} at http://{}", self.0.plan.address(id))];
        let done = Done { said, warnings: self.majority_lost().into_iter().collect() };
        self.told(&done);
        Ok(done)
    }

    /// Makes it so many servers: new ones are learners, and the highest numbers go first.
    pub(super) async fn scale(&self, servers: u64) -> Result<Done, Refused> {
        let voters = self.0.plan.voters;
        if servers < voters {
            let (vote, fewer) = if voters == 1 { ("server votes", "none") } else { ("servers vote", "fewer") };
            return Err(format!(
                "{voters} {vote}; {fewer} would leave the cell without a majority when one fails, or at once. To see \
                 what a lost server does: flotilla dev kill {voters}"
            ));
        }
        if servers > MAX_SERVERS {
            return Err(format!("at most {MAX_SERVERS} servers on one machine"));
        }
        let before: Vec<u64> = self.slots().keys().copied().collect();
        let mut done = Done::default();
        for &id in before.iter().rev().filter(|&&id| id > servers) {
            self.retire(id, &mut done).await;
        }
        let ids: Vec<u64> = (1..=servers).collect();
        self.0.plan.write(&ids).map_err(|failure| failure.to_string())?;
        for &id in ids.iter().filter(|id| !before.contains(id)) {
            let started = self.0.plan.check_ports(id).and_then(|()| self.launch(id));
            started.map_err(|failure| format!("server {id} can't be started: {failure}"))?;
            done.said.push(format!("started server {id} at http://{}, without a vote", self.0.plan.address(id)));
        }
        let down: Vec<u64> = self.slots().iter().filter(|(_, slot)| slot.child.is_none()).map(|(&id, _)| id).collect();
        done.said.extend(down.iter().map(|id| format!("server {id} doesn't run: flotilla dev start {id}")));
        if done.said.is_empty() {
            done.said.push(format!("there are {servers} servers already"));
        }
        self.told(&done);
        Ok(done)
    }

    /// Stops a server for good; its data stays.
    async fn retire(&self, id: u64, done: &mut Done) {
        if let Some(ended) = self.tell(id, Signal::TERM, "stopped")
            && !wait(ended, STOP).await
        {
            self.kill_one(id, "killed").await;
            done.warnings.push(format!("server {id} didn't stop within {STOP:?}, and was killed"));
        }
        self.slots().remove(&id);
        done.said.push(format!("stopped server {id}, which leaves the cell"));
    }

    /// Every server, by its number.
    pub(super) fn states(&self) -> Vec<ServerState> {
        let plan = &self.0.plan;
        let up = |since: SystemTime| since.elapsed().unwrap_or_default().as_secs();
        let state = |(&id, slot): (&u64, &Slot)| ServerState {
            id,
            state: if slot.child.is_some() { "running".to_owned() } else { slot.fate.clone() },
            votes: id <= plan.voters,
            pid: slot.child.as_ref().map(|child| child.pid),
            up: slot.child.as_ref().map(|child| up(child.since)),
            address: format!("http://{}", plan.address(id)),
            health: format!("http://{}", plan.health(id)),
            data_dir: plan.place.data_of(id).display().to_string(),
        };
        self.slots().iter().map(state).collect()
    }

    /// Asks all to stop and waits; who doesn't is killed.
    pub(super) async fn stop(&self) {
        let ids: Vec<u64> = self.slots().keys().copied().collect();
        let mut endings: Vec<(u64, watch::Receiver<bool>)> =
            ids.into_iter().filter_map(|id| Some((id, self.tell(id, Signal::TERM, "stopped")?))).collect();
        if endings.is_empty() {
            return;
        }
        talk::remark(&format!("stopping {}; ctrl-C again kills what still runs", servers(endings.len())));
        let mut waited = Duration::ZERO;
        while waited < STOP {
            let all = async {
                for (_, ended) in &mut endings {
                    // Its sender goes with the process.
                    let _ = ended.wait_for(|ended| *ended).await;
                }
            };
            if tokio::time::timeout(TELL, all).await.is_ok() {
                return;
            }
            waited += TELL;
            let left: Vec<String> =
                endings.iter().filter(|(_, ended)| !*ended.borrow()).map(|(id, _)| id.to_string()).collect();
            talk::remark(&format!(
                "waiting for server {}, {} s of {}",
                left.join(", "),
                waited.as_secs(),
                STOP.as_secs()
            ));
        }
        talk::warning("not all servers stopped in time: killing them; what was acknowledged is safe in their logs");
        self.kill_all().await;
    }

    /// Kills all that run.
    pub(super) async fn kill_all(&self) {
        let ids: Vec<u64> = self.slots().keys().copied().collect();
        for id in ids {
            self.kill_one(id, "killed").await;
        }
    }

    async fn kill_one(&self, id: u64, word: &'static str) {
        if let Some(ended) = self.tell(id, Signal::KILL, word) {
            // Nothing survives it for long.
            wait(ended, TELL).await;
        }
    }

    /// Sends a signal that is to end a server; none if it doesn't run.
    fn tell(&self, id: u64, signal: Signal, word: &'static str) -> Option<watch::Receiver<bool>> {
        let mut slots = self.slots();
        let slot = slots.get_mut(&id)?;
        let child = slot.child.as_ref()?;
        slot.asked = Some(word);
        slot.by_itself = false;
        child.signal(signal);
        Some(child.ended())
    }

    fn known(&self, id: u64) -> Result<(), Refused> {
        let slots = self.slots();
        match slots.contains_key(&id) {
            true => Ok(()),
            false => {
                let known: Vec<String> = slots.keys().map(u64::to_string).collect();
                Err(format!("there is no server {id}, but {}. More: flotilla dev scale {id}", known.join(", ")))
            }
        }
    }

    /// What a person should know if too few voters run.
    fn majority_lost(&self) -> Option<String> {
        let voters = self.0.plan.voters;
        let slots = self.slots();
        let running = |id: &u64| slots.get(id).is_some_and(|slot| slot.child.is_some());
        let down = (1..=voters).find(|id| !running(id))?;
        let runs = (1..=voters).filter(running).count() as u64;
        (runs * 2 <= voters).then(|| {
            format!(
                "{runs} of {voters} voters run: the cell has no majority, so nothing is written until another runs: \
                 flotilla dev start {down}"
            )
        })
    }

    /// Says at the terminal of the servers what was done.
    fn told(&self, done: &Done) {
        done.said.iter().for_each(|said| talk::remark(said));
        done.warnings.iter().for_each(|warning| talk::warning(warning));
    }
}

fn servers(count: usize) -> String {
    if count == 1 { "1 server".to_owned() } else { format!("{count} servers") }
}

/// Whether it has ended in time.
async fn wait(mut ended: watch::Receiver<bool>, bound: Duration) -> bool {
    // An error means that its sender has gone, with the process.
    tokio::time::timeout(bound, ended.wait_for(|ended| *ended)).await.is_ok()
}
