//! `flotilla top`: what a server does right now, from its page of metrics. It only reads that page.
//!
//! # Layout
//!
//! * `page`: a page of metrics, read.
//! * `numbers`: what two pages say of the time between them.
//! * `view`: what a terminal shows.

mod numbers;
mod page;
mod view;

use flotilla_client::{CallError, Target};
use std::{
    io::{self, IsTerminal},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use http::{Request, Uri};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};
use tonic::{
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::ServiceExt;

use self::{numbers::Numbers, page::Page, view::View};
use super::{Failure, health::one_server, output::Output};

/// How long a server may take to send its page.
const ANSWER: Duration = Duration::from_secs(2);
/// Bytes of a page that are read; more is no page of ours.
const MAX_PAGE: usize = 16 << 20;
/// How often the thread that reads keys looks whether it is to end.
const KEYS: Duration = Duration::from_millis(100);
const SHORTEST: Duration = Duration::from_millis(100);

/// Watches what a server does: calls, log, feed, push, memory. `q` quits. Without a terminal it prints
/// one snapshot.
#[derive(Debug, Args)]
pub(super) struct Top {
    /// The server's second port [default: the endpoint's, 100 higher]
    #[arg(long, value_name = "URL")]
    health_endpoint: Option<String>,
    /// How often it looks
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// Print one snapshot, of one interval, in plain lines
    #[arg(long)]
    once: bool,
}

impl Top {
    pub(super) async fn run(self, target: &Target, output: &mut Output) -> Result<(), Failure> {
        if self.interval < SHORTEST {
            let reason = format!("{:?} is too often: at least {SHORTEST:?}", self.interval);
            return Err(Failure::Argument { argument: "--interval".to_owned(), reason });
        }
        let endpoint = match &self.health_endpoint {
            Some(endpoint) => endpoint.clone(),
            None => second_port(&one_server(target)?.endpoint)?,
        };
        let server = Server::new(&endpoint)?;
        match self.once || !io::stdout().is_terminal() {
            true => once(&server, self.interval, output).await,
            false => watch(server, self.interval).await,
        }
    }
}

/// The address of the second port, by the rule that servers follow by default.
fn second_port(endpoint: &str) -> Result<String, Failure> {
    let refused = |reason: &str| Failure::Argument {
        argument: "--endpoint".to_owned(),
        reason: format!("{endpoint:?} {reason}: name the second port with --health-endpoint"),
    };
    let whole = if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
    let uri: Uri = whole.parse().map_err(|_| refused("is no address"))?;
    let (host, port) = uri.host().zip(uri.port_u16()).ok_or_else(|| refused("has no port"))?;
    let port = port.checked_add(100).ok_or_else(|| refused("has no port that is 100 higher"))?;
    Ok(format!("http://{host}:{port}"))
}

/// The second port of a server.
#[derive(Clone)]
struct Server {
    channel: Channel,
    endpoint: String,
    /// Without the scheme.
    name: String,
}

impl Server {
    fn new(endpoint: &str) -> Result<Self, Failure> {
        let name = endpoint.strip_prefix("http://").unwrap_or(endpoint).trim_end_matches('/').to_owned();
        let whole = format!("http://{name}");
        let refused = || CallError::Endpoint {
            endpoint: endpoint.to_owned(),
            reason: "it must look like http://127.0.0.1:7500".to_owned(),
        };
        if name.is_empty() || name.contains("://") {
            return Err(refused().into());
        }
        let channel = Endpoint::from_shared(whole.clone()).map_err(|_| refused())?.connect_timeout(ANSWER);
        Ok(Self { channel: channel.connect_lazy(), endpoint: whole, name })
    }

    /// The page, or why there is none.
    async fn page(&self) -> Result<Page, String> {
        let asking = async {
            let request = Request::get("/metrics").body(Body::empty()).map_err(|error| error.to_string())?;
            let answer = self.channel.clone().oneshot(request).await.map_err(|error| root_cause(&error))?;
            if !answer.status().is_success() {
                return Err(format!("it answers {}", answer.status()));
            }
            let body = axum::body::to_bytes(axum::body::Body::new(answer.into_body()), MAX_PAGE).await;
            let body = body.map_err(|error| root_cause(&error))?;
            Ok(Page::read(&String::from_utf8_lossy(&body)))
        };
        match tokio::time::timeout(ANSWER, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {ANSWER:?}")),
        }
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

async fn once(server: &Server, interval: Duration, output: &mut Output) -> Result<(), Failure> {
    let unreachable = |reason| CallError::Unreachable { endpoint: server.endpoint.clone(), reason };
    let before = server.page().await.map_err(unreachable)?;
    let began = Instant::now();
    tokio::time::sleep(interval).await;
    let after = server.page().await.map_err(unreachable)?;
    let numbers = Numbers::between(&before, &after, began.elapsed(), now());
    output.raw(view::plain(&server.name, &numbers).as_bytes())
}

/// Shows until somebody wants to quit.
async fn watch(server: Server, interval: Duration) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let mut view = View::new(server.name.clone(), interval);
    let (answers, mut answered) = mpsc::channel(1);
    let asking = tokio::spawn(ask(server, interval, answers));
    // A panic restores the terminal, too: ratatui sees to it.
    let mut terminal = ratatui::try_init().map_err(Failure::Output)?;
    let mut keys = Keys::read();
    let mut before: Option<(Page, Instant)> = None;
    let ended = loop {
        if let Err(error) = terminal.draw(|frame| view.draw(frame)) {
            break Err(Failure::Output(error));
        }
        tokio::select! {
            answer = answered.recv() => match answer {
                Some(Ok((page, at))) => {
                    match &before {
                        Some((last, then)) => view.show(Numbers::between(last, &page, at - *then, now())),
                        None => view.reached(),
                    }
                    before = Some((page, at));
                }
                Some(Err(problem)) => view.fail(problem),
                None => break Ok(()),
            },
            key = keys.events.recv() => match key {
                Some(key) if !quits(&key) => {}
                _ => break Ok(()),
            },
            () = signals.any() => break Ok(()),
        }
    };
    asking.abort();
    drop(keys);
    ratatui::try_restore().map_err(Failure::Output)?;
    ended
}

/// Asks for the page every so often; a problem ends nothing.
async fn ask(server: Server, every: Duration, answers: mpsc::Sender<Result<(Page, Instant), String>>) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answer = server.page().await.map(|page| (page, Instant::now()));
        if answers.send(answer).await.is_err() {
            return;
        }
    }
}

fn quits(event: &Event) -> bool {
    match event {
        Event::Key(key) => match key.code {
            KeyCode::Char('q') | KeyCode::Esc => true,
            KeyCode::Char('c') => key.modifiers.contains(KeyModifiers::CONTROL),
            _ => false,
        },
        _ => false,
    }
}

/// What is typed, and that the terminal has another size. Read by a thread, which ends with this.
struct Keys {
    events: mpsc::Receiver<Event>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Keys {
    fn read() -> Self {
        let (sender, events) = mpsc::channel(16);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let polled = event::poll(KEYS).and_then(|some| some.then(event::read).transpose());
                let sent = match polled {
                    Ok(Some(event)) => sender.blocking_send(event).is_ok(),
                    Ok(None) => true,
                    Err(_) => false,
                };
                if !sent {
                    return;
                }
            }
        });
        Self { events, stop, thread: Some(thread) }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.events.close();
        if let Some(thread) = self.thread.take() {
            // It reads the terminal's answers: those must be over before the terminal is restored.
            let _ = thread.join();
        }
    }
}

/// What ends it from outside.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> Result<Self, Failure> {
        let on = |kind| signal(kind).map_err(Failure::Runtime);
        Ok(Self([on(SignalKind::interrupt())?, on(SignalKind::terminate())?, on(SignalKind::hangup())?]))
    }

    async fn any(&mut self) {
        let Self([interrupt, terminate, hangup]) = self;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_port_is_100_higher_or_must_be_named() {
        for (endpoint, second) in [
            ("http://127.0.0.1:7400", "http://127.0.0.1:7500"),
            ("pi:7400", "http://pi:7500"),
            ("http://[::1]:7400/", "http://[::1]:7500"),
        ] {
            assert_eq!(second_port(endpoint).unwrap(), second);
        }
        for endpoint in ["http://pi", "http://pi:65500", "http://"] {
            let refused = second_port(endpoint).unwrap_err().to_string();
            assert!(refused.contains("--health-endpoint"), "{refused}");
        }
    }
}
