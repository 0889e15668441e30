//! From a config to a server that runs, and back to nothing.
//!
//! # Layout
//!
//! * `listeners`: the two ports, bound before anything is served.
//! * `health`: grpc.health.v1, which outlives the rest by answering "not serving".
//! * `plain`: the second port: health for gRPC, `/healthz`, `/readyz` and `/metrics` for HTTP.
//! * `debug`: what the second port tells more, if the config asks for it.
//! * `api`: the main port: the services under their layers.
//! * `connections`: who may connect to it.
//! * `layers/`: what every call passes: browsers, counting, admission, deadlines.
//! * `metrics`, `process`: what is counted.
//! * `mount`: which services there are, and what they are given.
//! * `stop`: signals, and how a server ends.
//!
//! A server is opened with its listeners and runs until its `stop` future is done. It installs no
//! signal handler and no logger by itself.

mod api;
mod connections;
mod debug;
mod error;
mod health;
mod layers;
mod listeners;
mod metrics;
mod mount;
mod plain;
mod process;
pub mod stop;

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use flotilla_peers::{PeerNetwork, PeerServer, Secret};
use flotilla_replica::{About, Options, PeerAddresses, Replica};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tonic::service::Routes;

pub use error::ServeError;
pub use listeners::Listeners;

use crate::{config::Config, services};
use debug::Debug;
use health::{Health, Phase};
use layers::{ready::Later, slow::SlowLog, trace::Sampler};

/// A server that serves.
pub struct Server {
    config: Config,
    addresses: Addresses,
    replica: Replica,
    health: Health,
    /// Ends streams and background tasks when it turns true.
    stopping: watch::Sender<bool>,
    /// Ends accepting on the main port when it turns true.
    closing: watch::Sender<bool>,
    /// Ends the second port when it turns true.
    closed: watch::Sender<bool>,
    api: JoinHandle<Result<(), tonic::transport::Error>>,
    plain: JoinHandle<Result<(), tonic::transport::Error>>,
    tasks: JoinHandle<()>,
    /// What the services call each other by; it goes with the server.
    _services: Arc<Routes>,
}

/// Where a server can be reached.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// gRPC and gRPC-Web.
    pub api: SocketAddr,
    /// Health and metrics.
    pub health: SocketAddr,
}

/// How long closing the data directory may take. What is cut short is replayed at the next start.
const CLOSE: Duration = Duration::from_secs(30);
/// How long handing leadership over, and leaving the cell, may take.
const LEAVE: Duration = Duration::from_secs(6);
const FAREWELL: Duration = Duration::from_secs(1);
/// How often a running server looks whether its log still works.
const LOG_CHECK: Duration = Duration::from_millis(500);

impl Server {
    /// Opens the data directory, mounts the services and serves; returns when the server is ready.
    /// The second port answers from the beginning, "not serving".
    ///
    /// # Errors
    /// See [`ServeError`].
    pub async fn open(config: Config, listeners: Listeners) -> Result<Self, ServeError> {
        let names = services::wanted(&config)?;
        let definitions = mount::definitions(&names);
        let addresses = listeners.addresses()?;
        let (closing, _) = watch::channel(false);
        let (closed, _) = watch::channel(false);
        let (stopping, _) = watch::channel(false);

        let health = Health::new(mount::grpc_names(&definitions));
        let metrics = metrics::Metrics::new();
        let opened = Arc::new(OnceLock::new());
        let debug = config.telemetry.debug.then(|| Debug { health: health.clone(), replica: opened.clone() });
        let plain = plain::serve(listeners.health, &health, &metrics, debug, done(&closed));
        tracing::info!(address = %addresses.health, "serving health and metrics");

        let secret = config.cluster.secret_file.as_deref().map(Secret::read).transpose()?;
        let network = Arc::new(PeerNetwork::new(secret.clone()));
        let replica = Replica::start(options(&config, addresses.api, &names, network)?).await?;
        metrics.register_replica(&replica);
        // Nobody else sets it.
        let _ = opened.set(replica.clone());
        let peer_metrics = flotilla_peers::Metrics::default();
        metrics.registry().with(|registry| peer_metrics.register(registry));
        let peers = PeerServer::new(Arc::new(OnceLock::from(replica.host())), secret, peer_metrics);
        let methods = metrics.methods(mount::method_paths(&definitions));
        let kinds = Arc::new(mount::method_kinds());
        let slow = SlowLog::new(config.telemetry.slow_request, kinds.clone(), replica.clone());
        let sampler = config.telemetry.otlp_endpoint.is_some().then(|| Sampler::new(config.telemetry.trace_sample));
        let later = Later::default();
        let gate =
            api::Gate { methods: Arc::new(methods), kinds, slow: Arc::new(slow), sampler, peers, later: later.clone() };
        let early = mount::early(&definitions, &replica, &health, &stopping);
        let api = api::serve(listeners.api, early, &config.limits, gate, done(&closing));
        if let Err(error) = replica.until_ready().await {
            api.abort();
            // What it says matters more than what closing says.
            let _ = replica.shutdown().await;
            return Err(error.into());
        }
        let neighbours = services::neighbours(&config)?;
        let mounted = mount::mount(&definitions, &replica, &health, metrics.registry(), &stopping, neighbours)?;
        let tasks = tokio::spawn(mounted.tasks);
        // Nobody else sets it.
        let _ = later.set(mounted.routes.clone());
        health.set(Phase::Serving);
        tracing::info!(address = %addresses.api, services = names.join(","), "ready, serving gRPC and gRPC-Web");

        Ok(Self {
            config,
            addresses,
            replica,
            health,
            stopping,
            closing,
            closed,
            api,
            plain,
            tasks,
            _services: mounted.routes,
        })
    }

    /// Where the server can be reached.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Its log and rows, for tests and benchmarks in the same process.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Serves until `stop` is done, then drains within the configured bound and closes the log.
    ///
    /// # Errors
    /// If the log failed while the server ran, or couldn't be closed: what was acknowledged is
    /// safe, but a person must look at the disk.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        tokio::pin!(stop);
        let mut failed = None;
        loop {
            tokio::select! {
                () = &mut stop => break,
                ended = &mut self.api => return Err(ServeError::Ended(ended.ok().and_then(Result::err))),
                reason = log_failure(&self.replica), if failed.is_none() => {
                    tracing::error!(
                        reason,
                        "the log failed: writes are refused until a restart, reads go on; look at the disk"
                    );
                    self.health.set(Phase::LogFailed);
                    failed = Some(reason);
                }
            }
        }
        self.drain().await;
        let closed = tokio::time::timeout(CLOSE, self.replica.shutdown()).await;
        self.health.set(Phase::Stopped);
        self.closed.send_replace(true);
        // Scrapers and health watchers get their last answer; nobody waits for one that doesn't read it.
        let _ = tokio::time::timeout(FAREWELL, &mut self.plain).await;
        // That closing failed is the consequence when the log did.
        match (failed.or_else(|| self.replica.status().failed), closed) {
            (Some(reason), _) => Err(ServeError::LogFailed { reason }),
            (None, Err(_)) => Err(ServeError::CloseTimedOut { waited: CLOSE }),
            (None, Ok(Err(source))) => Err(ServeError::Close { source }),
            (None, Ok(Ok(()))) => Ok(()),
        }
    }

    async fn drain(&mut self) {
        let started = Instant::now();
        let limits = &self.config.limits;
        tracing::info!(bound = ?limits.drain, "stopping: no longer ready, ending streams");
        self.health.set(Phase::Draining);
        let leave = self.replica.leave(started + limits.drain_delay.max(LEAVE));
        tokio::join!(leave, tokio::time::sleep(limits.drain_delay));
        self.closing.send_replace(true);
        self.stopping.send_replace(true);
        let drained = tokio::time::timeout(limits.drain, async {
            let _ = (&mut self.api).await;
            let _ = (&mut self.tasks).await;
        });
        match drained.await {
            Ok(()) => tracing::info!(elapsed = ?started.elapsed(), "drained"),
            Err(_) => {
                tracing::warn!(waited = ?limits.drain, "some requests or streams did not end in time: cutting them");
                self.api.abort();
                self.tasks.abort();
            }
        }
    }
}

/// Returns when the log has failed, with the reason.
async fn log_failure(replica: &Replica) -> String {
    let mut ticks = tokio::time::interval(LOG_CHECK);
    loop {
        ticks.tick().await;
        if let Some(reason) = replica.status().failed {
            return reason;
        }
    }
}

/// Returns when the sender has said true, or is gone.
fn done(sender: &watch::Sender<bool>) -> impl Future<Output = ()> + Send + use<> {
    let mut receiver = sender.subscribe();
    async move { _ = receiver.wait_for(|done| *done).await }
}

fn options(
    config: &Config,
    address: SocketAddr,
    services: &[&str],
    network: Arc<PeerNetwork>,
) -> Result<Options, ServeError> {
    let (cluster, limits) = (&config.cluster, &config.limits);
    let id = cluster.id;
    let known = config.clone();
    let peers: PeerAddresses = Arc::new(move |server| known.peer_address(server));
    Ok(Options {
        cell: cluster.name.clone(),
        server: id,
        address: config.peer_address(id).unwrap_or_else(|| address.to_string()),
        voters: cluster.voters,
        peers: (!cluster.peers.is_empty() || cluster.peers_dns.is_some()).then_some(peers),
        network,
        heartbeat: cluster.heartbeat,
        election: cluster.election,
        about: About {
            services: services.iter().map(|&name| name.to_owned()).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        },
        cache_bytes: limits.cache.bytes(),
        feed_retention_bytes: limits.feed_retention_size.bytes(),
        feed_retention: limits.feed_retention,
        min_free_bytes: limits.min_free_disk.bytes(),
        snapshot_log_bytes: limits.snapshot_log.bytes(),
        changes_segment_bytes: (limits.feed_retention_size.bytes() / 16).clamp(64 << 10, 4 << 20),
        max_waiting: limits.waiting_transactions,
        catch_up_timeout: limits.catch_up,
        ..Options::new(config.data_dir.clone())
    })
}
