//! `flotilla dev`: a server on this machine with all services, to try things out.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    pin::Pin,
};

use clap::Args;

use super::{
    Failure, serve,
    talk::{self, HEADING},
};
use crate::{
    config::{Config, Layers},
    serve::{Addresses, Listeners, ServeError, stop},
    services,
};

const DATA_DIR: &str = ".dev/data";

/// What `dev` lets a person choose.
#[derive(Debug, Args)]
pub(super) struct Dev {
    /// Where the data is kept [default: .dev/data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Begin with no data
    #[arg(long)]
    fresh: bool,
    /// The address of gRPC and gRPC-Web; health and metrics are 100 ports higher
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// What to log: a level, or directives
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

impl Dev {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let config = self.config()?;
        let mut stop = Box::pin(stop::signals()?);
        let listeners = Listeners::bind(&config).await.map_err(port_taken)?;
        if self.fresh {
            empty(&config.data_dir)?;
        }
        welcome(&config.data_dir, listeners.addresses()?);
        serve::begin(&config)?;
        let data_dir = config.data_dir.clone();
        let opened = serve::open(config, listeners, &mut stop).await?;
        if let Some(server) = opened {
            server.run(stop as Pin<Box<_>>).await?;
        }
        talk::say(&format!("stopped; the data is kept in {}", data_dir.display()));
        Ok(())
    }

    fn config(&self) -> Result<Config, Failure> {
        let mut layers = Layers::default();
        layers.add_flag("dev", "services", "all")?;
        layers.add_flag("dev", "data_dir", DATA_DIR)?;
        layers.add_environment()?;
        let data_dir = self.data_dir.as_ref().map(|path| path.display().to_string());
        for (flag, key, text) in [
            ("--data-dir", "data_dir", &data_dir),
            ("--listen", "listen", &self.listen),
            ("--log", "telemetry.log", &self.log),
        ] {
            if let Some(text) = text {
                layers.add_flag(flag, key, text)?;
            }
        }
        let config = layers.config()?;
        config.check(&services::names())?;
        Ok(config)
    }
}

fn port_taken(error: ServeError) -> Failure {
    match error {
        ServeError::Bind { address, source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
            Failure::PortTaken { address }
        }
        error => error.into(),
    }
}

/// Where everything is, and what to try.
fn welcome(data_dir: &Path, addresses: Addresses) {
    let flotilla = env::args().next().unwrap_or_else(|| "flotilla".to_owned());
    let endpoint = match addresses.api.port() {
        7400 => String::new(),
        _ => format!(" --endpoint http://{}", addresses.api),
    };
    let Addresses { api, health } = addresses;
    talk::say(&format!(
        "{HEADING}flotilla dev{HEADING:#}: one server, all services\n\
         \x20 gRPC, gRPC-Web  http://{api}\n\
         \x20 metrics         http://{health}/metrics\n\
         \x20 data            {}\n\n\
         {HEADING}Try in a second terminal{HEADING:#}\n\
         \x20 {flotilla} users create --email ada@example.org --first-name Ada --last-name Lovelace{endpoint}\n\
         \x20 {flotilla} users list{endpoint}\n\
         \x20 {flotilla} users watch{endpoint}\n\
         \x20 {flotilla} records put boats skiff '{{\"length_m\": 4.2, \"owner\": \"ada\"}}'{endpoint}\n\
         \x20 {flotilla} threads create harbour --as ada{endpoint}\n\
         \x20 {flotilla} threads watch --as ada{endpoint}\n\
         \x20 {flotilla} threads post harbour hello --as ada{endpoint}\n\
         \x20 {flotilla} top{endpoint}\n\n\
         Ctrl-C stops it and keeps the data.\n",
        data_dir.display()
    ));
}

/// Empties a data directory that is Flotilla's and that nobody uses.
fn empty(data_dir: &Path) -> Result<(), Failure> {
    let failed = |operation: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| Failure::File { operation, path, source }
    };
    let entries = match fs::read_dir(data_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed("list", data_dir))?,
    };
    let paths: Vec<PathBuf> =
        entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>().map_err(failed("list", data_dir))?;
    if paths.is_empty() {
        return Ok(());
    }
    if !data_dir.join("identity.json").exists() {
        return Err(Failure::NotOurs { path: data_dir.to_owned() });
    }
    // The server's own lock, held until everything but the lock is gone.
    let lock_path = data_dir.join("lock");
    let open = fs::File::options().read(true).write(true).create(true).truncate(false).open(&lock_path);
    let lock = open.map_err(failed("open", &lock_path))?;
    if lock.try_lock().is_err() {
        let holder = io::read_to_string(&lock).unwrap_or_default();
        let holder =
            if holder.trim().is_empty() { "a process".to_owned() } else { format!("process {}", holder.trim()) };
        return Err(Failure::FreshInUse { path: data_dir.to_owned(), holder });
    }
    for path in paths.iter().filter(|path| **path != lock_path) {
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.map_err(failed("remove", path))?;
    }
    talk::remark(&format!("emptied {}", data_dir.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_leaves_a_directory_alone_that_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("thesis.txt");
        fs::write(&file, "years of work").unwrap();
        assert!(matches!(empty(dir.path()), Err(Failure::NotOurs { .. })));
        assert!(file.exists());
    }

    #[test]
    fn fresh_leaves_a_directory_alone_that_a_server_uses() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("identity.json"), "{}").unwrap();
        fs::write(dir.path().join("lock"), "4711").unwrap();
        let held = fs::File::open(dir.path().join("lock")).unwrap();
        held.lock().unwrap();
        let error = empty(dir.path()).unwrap_err();
        assert!(error.to_string().contains("process 4711"), "{error}");
        drop(held);
        empty(dir.path()).unwrap();
        assert!(!dir.path().join("identity.json").exists());
    }
}
