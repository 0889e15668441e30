//! The services that this binary has. A new one is one line here, and one in `Cargo.toml`.

use flotilla_kit::service::Definition;

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
/// If it names none, one that isn't there, or one without another that it needs.
pub fn wanted(config: &Config) -> Result<Vec<&'static str>, ConfigError> {
    let wanted = config.services(&names())?;
    for service in ALL.iter().filter(|service| wanted.contains(&service.name)) {
        if let Some(needs) = service.needs.iter().find(|needs| !wanted.contains(needs)) {
            return Err(ConfigError::MissingService { name: service.name, needs });
        }
    }
    Ok(wanted)
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
}
