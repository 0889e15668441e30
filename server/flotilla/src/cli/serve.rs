//! `flotilla serve`.

use std::{future::Future, io, path::PathBuf};

use clap::Args;

use super::Failure;
use crate::{
    config::{Config, Layers},
    serve::{Listeners, ServeError, Server, stop},
    services, telemetry,
};

/// What overrides the file and the environment (`FLOTILLA_*`).
#[derive(Debug, Args)]
#[command(after_help = "Every key is explained in server/flotilla/config.toml.")]
pub(super) struct ServerFlags {
    /// The config file
    #[arg(long, env = "FLOTILLA_CONFIG", value_name = "FILE", hide_env_values = true)]
    config: Option<PathBuf>,
    /// Services to run, separated by commas, or `all`
    #[arg(long, value_name = "NAMES")]
    services: Option<String>,
    /// Where the data is kept
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// The address of gRPC and gRPC-Web
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The address of health and metrics
    #[arg(long, value_name = "ADDRESS")]
    health_listen: Option<String>,
    /// Let anybody who reaches the server do everything
    #[arg(long)]
    unauthenticated: bool,
    /// What to log: a level, or directives
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// How log lines look: auto, pretty, json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Any other key, for instance limits.cache=256MiB; may be given many times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Stop, too, when stdin ends: whoever started this has gone
    #[arg(long, hide = true)]
    exit_with_parent: bool,
}

impl ServerFlags {
    /// Defaults, then the file, then the environment, then these flags.
    pub(super) fn layers(&self) -> Result<Layers, Failure> {
        let mut layers = Layers::default();
        if let Some(file) = &self.config {
            layers.add_file(file)?;
        }
        layers.add_environment()?;
        let unauthenticated = self.unauthenticated.then(|| "true".to_owned());
        let flags = [
            ("--services", "services", &self.services),
            ("--data-dir", "data_dir", &self.data_dir),
            ("--listen", "listen", &self.listen),
            ("--health-listen", "health_listen", &self.health_listen),
            ("--unauthenticated", "unauthenticated", &unauthenticated),
            ("--log", "telemetry.log", &self.log),
            ("--log-format", "telemetry.log_format", &self.log_format),
        ];
        for (flag, key, text) in flags {
            if let Some(text) = text {
                layers.add_flag(flag, key, text)?;
            }
        }
        for argument in &self.set {
            layers.add_set(argument)?;
        }
        Ok(layers)
    }
}

/// Runs a server until a signal.
pub(super) async fn run(flags: ServerFlags) -> Result<(), Failure> {
    let config = flags.layers()?.config()?;
    config.check(&services::names())?;
    begin(&config)?;
    let signals = stop::signals()?;
    let mut stop = Box::pin(async move {
        tokio::select! {
            () = signals => {}
            () = end_of_input(), if flags.exit_with_parent => tracing::info!("who started this process has gone: stopping"),
        }
    });
    let listeners = Listeners::bind(&config).await?;
    let Some(server) = open(config, listeners, &mut stop).await? else { return Ok(()) };
    Ok(server.run(stop).await?)
}

/// Returns when stdin has ended. A thread of its own waits for that: the runtime would wait for one of
/// its own threads when it ends.
async fn end_of_input() {
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // An error is an end, too; and nobody may listen any more.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = tell.send(());
    });
    let _ = told.await;
}

/// Starts logging; the first line says what runs.
fn begin(config: &Config) -> Result<(), Failure> {
    telemetry::start(&config.telemetry).map_err(ServeError::Log)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        data_dir = %config.data_dir.display(),
        "flotilla starts"
    );
    for warning in config.warnings() {
        tracing::warn!(warning, "the configuration is doubtful");
    }
    Ok(())
}

/// Opens a server; none if it was asked to stop meanwhile, which a long replay must not delay.
async fn open(config: Config, listeners: Listeners, stop: impl Future<Output = ()>) -> Result<Option<Server>, Failure> {
    tokio::select! {
        opened = Server::open(config, listeners) => Ok(Some(opened?)),
        () = stop => {
            tracing::info!("stopped while starting");
            Ok(None)
        }
    }
}
