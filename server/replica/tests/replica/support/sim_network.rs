//! A network in memory that delays, loses, doubles and cuts, as a seed says.
//!
//! Addresses are names. A call that is lost on the way ends with its timeout; a stream of which a
//! message is lost falls silent and breaks some time later, as a connection does. Messages of one stream
//! keep their order; calls overtake each other. A server that crashes breaks whatever it takes part in.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use flotilla_proto::peer::v1 as peer;
use flotilla_replica::peer::{Answer, Answers, Call, Host, Introduction, Network, PeerError, Requests};
use futures::{FutureExt, Stream, StreamExt, future::BoxFuture};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

/// How long a connection that can't be made is tried.
const CONNECT: Duration = Duration::from_millis(500);

/// All servers' network. Clones are the same.
#[derive(Clone)]
pub(crate) struct SimNetwork(Arc<Mutex<State>>);

struct State {
    random: StdRng,
    began: Instant,
    hosts: BTreeMap<String, Listening>,
    /// From whom to whom nothing goes.
    cuts: BTreeSet<(String, String)>,
    weather: Weather,
    trace: Vec<String>,
    told: bool,
}

#[derive(Clone)]
struct Listening {
    host: Arc<dyn Host>,
    alive: Alive,
}

/// How likely what is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    pub(crate) lost: f64,
    pub(crate) slow: f64,
    pub(crate) doubled: f64,
}

/// Ends with a server's life.
pub(crate) type Alive = watch::Receiver<bool>;

/// The network as one life of a server has it.
struct Place {
    network: SimNetwork,
    name: String,
    alive: Alive,
}

impl SimNetwork {
    pub(crate) fn new(seed: u64, told: bool) -> Self {
        let state = State {
            random: StdRng::seed_from_u64(seed),
            began: Instant::now(),
            hosts: BTreeMap::new(),
            cuts: BTreeSet::new(),
            weather: Weather::default(),
            trace: Vec::new(),
            told,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// How a server's life reaches the others.
    pub(crate) fn place(&self, name: &str, alive: Alive) -> Arc<dyn Network> {
        Arc::new(Place { network: self.clone(), name: name.to_owned(), alive })
    }

    /// From now on a server is heard.
    pub(crate) fn listen(&self, name: &str, host: Arc<dyn Host>, alive: Alive) {
        self.state().hosts.insert(name.to_owned(), Listening { host, alive });
    }

    /// A server is gone.
    pub(crate) fn forget(&self, name: &str) {
        self.state().hosts.remove(name);
    }

    /// Nothing goes from one to another any more.
    pub(crate) fn cut(&self, from: &str, to: &str) {
        self.state().cuts.insert((from.to_owned(), to.to_owned()));
    }

    /// Everything goes again.
    pub(crate) fn heal(&self) {
        self.state().cuts.clear();
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Notes what happened, to compare two runs.
    pub(crate) fn note(&self, what: impl FnOnce() -> String) {
        let mut state = self.state();
        let line = format!("{:9.3} {}", state.began.elapsed().as_secs_f64() * 1000.0, what());
        if state.told {
            eprintln!("{line}");
        }
        state.trace.push(line);
    }

    /// What happened.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.state().trace.clone()
    }

    /// When a message arrives; none: never.
    fn arrival(&self, from: &str, to: &str) -> Option<Instant> {
        let mut state = self.state();
        let weather = state.weather;
        let slow = state.random.random_bool(weather.slow);
        let micros =
            if slow { state.random.random_range(20_000..250_000) } else { state.random.random_range(50..3000) };
        let lost = state.random.random_bool(weather.lost) || state.cuts.contains(&(from.to_owned(), to.to_owned()));
        (!lost).then(|| Instant::now() + Duration::from_micros(micros))
    }

    fn is_doubled(&self) -> bool {
        let mut state = self.state();
        let doubled = state.weather.doubled;
        state.random.random_bool(doubled)
    }

    fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.state().random.random_range(from..to))
    }

    fn listening(&self, addresses: &[String]) -> Option<(String, Listening)> {
        let state = self.state();
        addresses.iter().find_map(|name| Some((name.clone(), state.hosts.get(name)?.clone())))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Takes a stream there, and its answers back.
    fn stream<Q: Send + 'static, A: Send + 'static>(
        &self,
        what: &'static str,
        addresses: &[String],
        requests: Requests<Q>,
        open: impl FnOnce(Arc<dyn Host>, Requests<Q>) -> BoxFuture<'static, Result<Answers<A>, PeerError>> + Send + 'static,
    ) -> BoxFuture<'static, Result<Answers<A>, PeerError>> {
        let (network, name, alive) = (self.network.clone(), self.name.clone(), self.alive.clone());
        let found = network.listening(addresses);
        async move {
            let Some((to, listening)) = found.filter(|_| *alive.borrow()) else {
                sleep(Duration::from_millis(1)).await;
                return Err(PeerError::Unreachable("nobody listens".into()));
            };
            let arrival = network.arrival(&name, &to).filter(|_| network.arrival(&to, &name).is_some());
            let Some(arrival) = arrival else {
                sleep(CONNECT).await;
                return Err(PeerError::Unreachable("no connection".into()));
            };
            sleep_until(arrival).await;
            network.note(|| format!("{name} -> {to} {what}"));
            let broken = Broken { flag: watch::Sender::new(false), lives: [alive, listening.alive.clone()] };
            let requests = carry(&network, (&name, &to), requests, &broken, what);
            let answers = tokio::select! {
                biased;
                () = broken.wait() => Err(PeerError::Broken("the connection broke".into())),
                answers = open(listening.host, requests) => answers,
            }?;
            let answers = carry(&network, (&to, &name), answers, &broken, what);
            let end = async move {
                match broken.is() {
                    true => Some(Err(PeerError::Broken("the connection broke".into()))),
                    false => None,
                }
            };
            let end = futures::stream::once(end).filter_map(std::future::ready);
            Ok(answers.chain(end).boxed())
        }
        .boxed()
    }
}

/// Whether a connection is.
#[derive(Clone)]
struct Broken {
    flag: watch::Sender<bool>,
    lives: [Alive; 2],
}

impl Broken {
    fn is(&self) -> bool {
        *self.flag.borrow() || self.lives.iter().any(|alive| !*alive.borrow())
    }

    async fn wait(&self) {
        let mut flag = self.flag.subscribe();
        let [mut one, mut other] = self.lives.clone();
        tokio::select! {
            biased;
            _ = flag.wait_for(|broken| *broken) => {}
            _ = one.wait_for(|alive| !*alive) => {}
            _ = other.wait_for(|alive| !*alive) => {}
        }
    }
}

/// Carries one direction of a stream, in order.
fn carry<T: Send + 'static>(
    network: &SimNetwork,
    (from, to): (&str, &str),
    mut source: impl Stream<Item = T> + Send + Unpin + 'static,
    broken: &Broken,
    what: &'static str,
) -> futures::stream::BoxStream<'static, T> {
    let (sender, receiver) = mpsc::channel::<(Instant, T)>(32);
    let (network, from, to, breaks) = (network.clone(), from.to_owned(), to.to_owned(), broken.clone());
    tokio::spawn(async move {
        loop {
            let message = tokio::select! {
                biased;
                () = breaks.wait() => return,
                () = sender.closed() => return,
                message = source.next() => message,
            };
            let Some(message) = message else { return };
            let Some(arrival) = network.arrival(&from, &to) else {
                network.note(|| format!("{from} -> {to} {what} lost"));
                sleep(network.millis(100, 1200)).await;
                breaks.flag.send_replace(true);
                return;
            };
            network.note(|| format!("{from} -> {to} {what} message"));
            if sender.send((arrival, message)).await.is_err() {
                return;
            }
        }
    });
    let broken = broken.clone();
    let receive = move |mut receiver: mpsc::Receiver<(Instant, T)>| {
        let broken = broken.clone();
        async move {
            let arrived = async {
                let (arrival, message) = receiver.recv().await?;
                sleep_until(arrival).await;
                Some(message)
            };
            let message = tokio::select! {
                biased;
                () = broken.wait() => None,
                message = arrived => message,
            };
            Some((message?, receiver))
        }
    };
    futures::stream::unfold(receiver, receive).boxed()
}

impl Network for Place {
    fn call(
        &self,
        addresses: &[String],
        introduction: Introduction,
        call: Call,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Answer, PeerError>> {
        let (network, name, alive) = (self.network.clone(), self.name.clone(), self.alive.clone());
        let found = network.listening(addresses);
        async move {
            let Some((to, listening)) = found.filter(|_| *alive.borrow()) else {
                sleep(Duration::from_millis(1)).await;
                return Err(PeerError::Unreachable("nobody listens".into()));
            };
            let until = Instant::now() + timeout;
            let harmless = matches!(call, Call::Vote(_) | Call::Propose(_) | Call::ReadIndex(_) | Call::Describe(_));
            let kind = kind(&call);
            let Some(arrival) = network.arrival(&name, &to) else {
                network.note(|| format!("{name} -> {to} {kind} lost"));
                sleep_until(until).await;
                return Err(PeerError::TimedOut(timeout));
            };
            if harmless && network.is_doubled() {
                let again = arrival + network.millis(0, 300);
                let (listening, introduction, call) = (listening.clone(), introduction.clone(), call.clone());
                tokio::spawn(async move {
                    sleep_until(again).await;
                    if *listening.alive.borrow() {
                        // Nobody waits for the second answer.
                        let _ = listening.host.call(introduction, call).await;
                    }
                });
            }
            let broken = Broken { flag: watch::Sender::new(false), lives: [alive, listening.alive.clone()] };
            let breaks = broken.clone();
            let (there, host) = (network.clone(), listening.host);
            // The callee goes on when the caller has given up.
            let answered = tokio::spawn(async move {
                sleep_until(arrival).await;
                there.note(|| format!("{name} -> {to} {kind}"));
                let answer = tokio::select! {
                    biased;
                    () = breaks.wait() => return Some(Err(PeerError::Broken("the connection broke".into()))),
                    answer = host.call(introduction, call) => answer,
                };
                sleep_until(there.arrival(&to, &name)?).await;
                Some(answer)
            });
            let answer = tokio::select! {
                biased;
                () = broken.wait() => Some(Err(PeerError::Broken("the connection broke".into()))),
                answer = answered => match answer {
                    Ok(Some(answer)) => Some(answer),
                    Ok(None) => None,
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                () = sleep_until(until) => None,
            };
            match answer {
                Some(answer) => answer,
                None => {
                    sleep_until(until).await;
                    Err(PeerError::TimedOut(timeout))
                }
            }
        }
        .boxed()
    }

    fn append(
        &self,
        addresses: &[String],
        introduction: Introduction,
        requests: Requests<peer::AppendRequest>,
    ) -> BoxFuture<'static, Result<Answers<peer::AppendResponse>, PeerError>> {
        self.stream("append", addresses, requests, |host, requests| host.append(introduction, requests))
    }

    fn install_snapshot(
        &self,
        addresses: &[String],
        introduction: Introduction,
        requests: Requests<peer::InstallSnapshotRequest>,
    ) -> BoxFuture<'static, Result<Answers<peer::InstallSnapshotResponse>, PeerError>> {
        self.stream("snapshot", addresses, requests, |host, requests| host.install_snapshot(introduction, requests))
    }
}

fn kind(call: &Call) -> &'static str {
    match call {
        Call::Vote(request) if request.pre_vote => "pre-vote",
        Call::Vote(_) => "vote",
        Call::TransferLeader(_) => "transfer",
        Call::Propose(_) => "propose",
        Call::ReadIndex(_) => "read index",
        Call::Describe(_) => "describe",
        Call::Change(_) => "change",
        Call::GetCheckReport(_) => "report",
    }
}
