//! One server: its connection, made when it is first used, and whether it works.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tonic::transport::{Channel, Endpoint, Error};

use super::Does;

/// How long a server that failed once is avoided; twice as long each time that it fails again.
const AVOID: Duration = Duration::from_millis(250);
const AVOID_MOST: Duration = Duration::from_secs(5);
/// The longest for an address that never worked: perhaps it can't be reached from here at all.
const AVOID_MOST_NEVER_WORKED: Duration = Duration::from_mins(1);

/// One server.
#[derive(Debug)]
pub(crate) struct Link {
    name: Box<str>,
    /// Where to connect.
    endpoint: Endpoint,
    channel: OnceLock<Channel>,
    /// Which life of which server it must be; none for an address that was given, which is believed.
    incarnation: Option<Box<str>>,
    /// Calls under way.
    calls: AtomicUsize,
    streams: AtomicUsize,
    health: Mutex<Health>,
    /// The cell says that it can't be reached.
    lost: watch::Sender<()>,
}

#[derive(Debug)]
struct Health {
    /// It may be called. A connection that broke, or was never made, is checked first.
    checked: bool,
    /// It was checked or answered once.
    worked: bool,
    /// How often it failed since it last answered.
    failures: u32,
    avoided_until: Option<Instant>,
    check: Check,
}

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Check {
    Idle,
    Wanted,
    UnderWay,
}

/// What a server is good for at the moment.
#[derive(Debug, PartialEq)]
pub(super) enum Readiness {
    Works,
    /// Perhaps; a check tells.
    Unchecked,
    Avoided,
}

impl Link {
    /// A server whose address was given.
    pub(super) fn given(endpoint: Endpoint, name: &str) -> Self {
        Self::new(endpoint, name, None)
    }

    /// A server of the cell's list, which must be this incarnation.
    pub(super) fn listed(endpoint: Endpoint, name: &str, incarnation: &str) -> Self {
        Self::new(endpoint, name, Some(incarnation.into()))
    }

    /// A connection that was made otherwise.
    pub(super) fn over(channel: Channel, name: &str) -> Self {
        let link = Self { name: name.into(), ..Self::nowhere() };
        link.channel.get_or_init(|| channel);
        link
    }

    /// Where nobody answers.
    pub(super) fn nowhere() -> Self {
        Self::new(Endpoint::from_static("http://0.0.0.0:0"), "", None)
    }

    fn new(endpoint: Endpoint, name: &str, incarnation: Option<Box<str>>) -> Self {
        let given = incarnation.is_none();
        let health = Health { checked: given, worked: given, failures: 0, avoided_until: None, check: Check::Idle };
        Self {
            name: name.into(),
            endpoint,
            channel: OnceLock::new(),
            incarnation,
            calls: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            health: Mutex::new(health),
            lost: watch::channel(()).0,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn incarnation(&self) -> Option<&str> {
        self.incarnation.as_deref()
    }

    /// Connects now, to learn whether somebody is there.
    pub(super) async fn connect(&self) -> Result<(), Error> {
        let channel = self.endpoint.connect().await?;
        self.channel.get_or_init(|| channel);
        Ok(())
    }

    /// The connection, which opens when it is used, and again after it broke.
    pub(super) fn channel(&self) -> Channel {
        self.channel.get_or_init(|| self.endpoint.connect_lazy()).clone()
    }

    /// How much of its kind is under way.
    pub(super) fn outstanding(&self, does: Does) -> usize {
        self.counter(does).load(Ordering::Relaxed)
    }

    fn counter(&self, does: Does) -> &AtomicUsize {
        match does {
            Does::Read | Does::Change => &self.calls,
            Does::Stream => &self.streams,
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        // No code that holds it panics.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn readiness(&self, now: Instant, checks: bool) -> Readiness {
        let health = self.health();
        match health.avoided_until {
            Some(until) if until > now => Readiness::Avoided,
            _ if checks && !health.checked => Readiness::Unchecked,
            _ => Readiness::Works,
        }
    }

    pub(super) fn has_worked(&self) -> bool {
        self.health().worked
    }

    pub(super) fn avoided_until(&self) -> Option<Instant> {
        self.health().avoided_until
    }

    /// It answered.
    pub(crate) fn succeeded(&self) {
        let mut health = self.health();
        (health.checked, health.worked, health.failures, health.avoided_until) = (true, true, 0, None);
    }

    /// It failed, which may be over soon: it is avoided for a while. If the connection broke, it is
    /// checked before it is used again.
    pub(crate) fn failed(&self, broken: bool) {
        let mut health = self.health();
        health.checked &= !broken;
        health.avoid();
    }

    /// The cell says that it is well again.
    pub(super) fn recovered(&self) {
        let mut health = self.health();
        health.avoided_until = None;
    }

    /// The cell says that it can't be reached: calls that wait for it may go elsewhere.
    pub(super) fn give_up(&self) {
        self.lost.send_replace(());
    }

    /// Asks for a check; false if one has been asked for.
    pub(super) fn want_check(&self) -> bool {
        let mut health = self.health();
        let idle = health.check == Check::Idle;
        if idle {
            health.check = Check::Wanted;
        }
        idle
    }

    /// Whether a check is wanted, which now begins.
    pub(super) fn begin_check(&self) -> bool {
        let mut health = self.health();
        let wanted = health.check == Check::Wanted;
        if wanted {
            health.check = Check::UnderWay;
        }
        wanted
    }

    pub(super) fn end_check(&self, found: bool) {
        let mut health = self.health();
        health.check = Check::Idle;
        match found {
            true => (health.checked, health.worked, health.avoided_until) = (true, true, None),
            false => health.avoid(),
        }
    }
}

impl Health {
    fn avoid(&mut self) {
        let now = Instant::now();
        // What fails together is one failure.
        if self.avoided_until.is_some_and(|until| until > now) {
            return;
        }
        let most = if self.worked { AVOID_MOST } else { AVOID_MOST_NEVER_WORKED };
        let length = AVOID.saturating_mul(1 << self.failures.min(16)).min(most);
        self.failures = self.failures.saturating_add(1);
        self.avoided_until = Some(now + length.mul_f64(rand::random_range(0.5..=1.0)));
    }
}

/// A server that was chosen for a call or a stream, which counts as under way while this lives.
#[derive(Debug)]
pub(crate) struct Lease {
    link: Arc<Link>,
    does: Does,
}

impl Lease {
    pub(super) fn of(link: &Arc<Link>, does: Does) -> Self {
        link.counter(does).fetch_add(1, Ordering::Relaxed);
        Self { link: link.clone(), does }
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(crate) fn channel(&self) -> Channel {
        self.link.channel()
    }

    /// Tells each time that the cell can't reach the server any more.
    pub(crate) fn lost(&self) -> watch::Receiver<()> {
        self.link.lost.subscribe()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.link.counter(self.does).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(incarnation: Option<Box<str>>) -> Link {
        Link::new(Endpoint::from_static("http://127.0.0.1:1"), "a", incarnation)
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_fails_is_avoided_for_a_growing_and_bounded_time() {
        let link = link(None);
        let mut lengths = Vec::new();
        for _ in 0..20 {
            link.failed(false);
            let length = link.avoided_until().unwrap() - Instant::now();
            assert_eq!(link.readiness(Instant::now(), true), Readiness::Avoided);
            tokio::time::sleep(length).await;
            assert_eq!(link.readiness(Instant::now(), true), Readiness::Works);
            lengths.push(length);
        }
        assert!(lengths[0] <= AVOID && lengths[4] > lengths[0]);
        assert!(lengths.iter().all(|length| *length <= AVOID_MOST));
        link.succeeded();
        link.failed(false);
        assert!(link.avoided_until().unwrap() - Instant::now() <= AVOID, "an answer begins it anew");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_one_moment_count_once() {
        let link = link(None);
        (0..50).for_each(|_| link.failed(false));
        assert!(link.avoided_until().unwrap() - Instant::now() <= AVOID);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_broke_is_checked_before_it_is_used_again() {
        let link = link(None);
        link.failed(true);
        tokio::time::sleep(AVOID).await;
        assert_eq!(link.readiness(Instant::now(), true), Readiness::Unchecked);
        assert_eq!(link.readiness(Instant::now(), false), Readiness::Works, "nobody checks: a call has to try");
        assert!(link.want_check() && !link.want_check(), "asked for once");
        assert!(link.begin_check() && !link.begin_check(), "begun once");
        link.end_check(true);
        assert_eq!(link.readiness(Instant::now(), true), Readiness::Works);
    }
}
