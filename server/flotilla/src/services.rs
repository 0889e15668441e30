//! The services that this binary has. A new one is one line here, and one in `Cargo.toml`.

use flotilla_kit::service::Definition;

/// Every service that a config may name, in the order in which they are mounted and listed.
pub const ALL: &[Definition] = &[flotilla_users::DEFINITION, flotilla_records::DEFINITION];

/// Their short names.
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|service| service.name).collect()
}
