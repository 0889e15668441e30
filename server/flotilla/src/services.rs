//! The services that this binary has. A new one is one line here, and one in `Cargo.toml`.

use std::collections::HashMap;

use flotilla_client::{Balanced, Target};
use flotilla_kit::{Local, service::Definition};

use crate::config::{Config, ConfigError};

/// Every service that a config may name, in the order in which they are mounted and listed.
pub const ALL: &[Definition] =
    &[flotilla_users::DEFINITION, flotilla_records::DEFINITION, flotilla_threads::DEFINITION];

/// Their short names.
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|service| service.name).collect()
}

/// The names of those that a config asks for, in the order of [`ALL`].
///
/// # Errors
/// If it names none, one that isn't there, or one without another that it needs here or elsewhere; or if one is here
/// and elsewhere, or nowhere.
pub fn wanted(config: &Config) -> Result<Vec<&'static str>, ConfigError> {
    let wanted = config.services(&names())?;
    for service in ALL.iter().filter(|service| wanted.contains(&service.name)) {
        let missing = |needs: &&&str| !wanted.contains(*needs) && config.remote_services.of(needs).is_empty();
        if let Some(needs) = service.needs.iter().find(missing) {
            return Err(ConfigError::MissingService { name: service.name, needs });
        }
    }
    for service in elsewhere(config) {
        if wanted.contains(&service.name) {
            return Err(ConfigError::ServiceTwice { name: service.name });
        }
        target(config, service)?;
    }
    Ok(wanted)
}

/// What the services of this server may ask: one another, and those that run in other cells. Must be called within a
/// tokio runtime.
///
/// # Errors
/// If an address of another cell isn't one.
pub fn neighbours(config: &Config) -> Result<Local, ConfigError> {
    let balanced = |service: &Definition| {
        let (target, addresses) = (target(config, service)?, config.remote_services.of(service.name));
        let refused = |_| ConfigError::RemoteAddress { name: service.name, address: addresses.join(",") };
        Ok((service.grpc_name, Balanced::new(&target, service.name).map_err(refused)?))
    };
    Ok(Local::with_others(elsewhere(config).map(balanced).collect::<Result<HashMap<_, _>, ConfigError>>()?))
}

/// The services that run in other cells.
fn elsewhere(config: &Config) -> impl Iterator<Item = &'static Definition> {
    ALL.iter().filter(|service| !config.remote_services.of(service.name).is_empty())
}

fn target(config: &Config, service: &Definition) -> Result<Target, ConfigError> {
    let addresses = config.remote_services.of(service.name);
    let is_address = |address: &str| {
        let (host, port) = address.rsplit_once(':').unwrap_or_default();
        !host.is_empty() && port.parse::<u16>().is_ok() && Target::new(address).check().is_ok()
    };
    match addresses.iter().find(|address| address.contains(',') || !is_address(address)) {
        Some(address) => Err(ConfigError::RemoteAddress { name: service.name, address: address.clone() }),
        None => Ok(Target::new(addresses.join(","))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted_of(services: &[&str]) -> Result<Vec<&'static str>, ConfigError> {
        wanted(&Config { services: services.iter().map(|&name| name.to_owned()).collect(), ..Config::default() })
    }

    #[test]
    fn a_service_without_the_one_it_asks_is_refused_by_name() {
        let error = wanted_of(&["threads", "records"]).unwrap_err().to_string();
        assert!(error.contains("`threads`, which asks `users`"), "{error}");
        assert_eq!(wanted_of(&["threads", "users"]).unwrap(), ["users", "threads"]);
        assert_eq!(wanted_of(&["all"]).unwrap(), names());
    }

    fn with_users_at(services: &[&str], addresses: &[&str]) -> Result<Vec<&'static str>, String> {
        let mut config =
            Config { services: services.iter().map(|&name| name.to_owned()).collect(), ..Config::default() };
        config.remote_services.users = addresses.iter().map(|&address| address.to_owned()).collect();
        wanted(&config).map_err(|error| error.to_string())
    }

    #[test]
    fn a_service_may_ask_one_that_runs_elsewhere() {
        assert_eq!(with_users_at(&["threads"], &["10.0.0.1:7400", "users.test:7400"]).unwrap(), ["threads"]);
    }

    #[test]
    fn a_service_that_is_here_and_elsewhere_is_refused() {
        for services in [&["users", "threads"][..], &["all"]] {
            let error = with_users_at(services, &["10.0.0.1:7400"]).unwrap_err();
            assert!(error.contains("`users` runs here") && error.contains("`remote_services.users`"), "{error}");
        }
    }

    #[test]
    fn an_address_of_another_cell_that_is_none_is_named() {
        for bad in ["10.0.0.1", "https://a:7400", "a:7400,b:7400", ":7400", "a:70000", "a b:7400"] {
            let error = with_users_at(&["threads"], &["10.0.0.1:7400", bad]).unwrap_err();
            assert!(error.contains(bad) && error.contains("remote_services.users"), "{error}");
        }
    }
}
