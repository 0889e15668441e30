//! `flotilla check-config`.

use super::{
    Failure,
    output::{Format, Output},
    serve::ServerFlags,
    talk,
};
use crate::services;

/// Prints the effective configuration as TOML, or says what is wrong with it.
pub(super) fn run(flags: &ServerFlags) -> Result<(), Failure> {
    let layers = flags.layers()?;
    let config = layers.config()?;
    Output::new(Format::Table).raw(layers.render(&config).as_bytes())?;
    let names = services::names();
    config.check(&names)?;
    for warning in config.warnings() {
        talk::warning(&warning);
    }
    talk::remark(&format!("good: `serve` would run {}", services::wanted(&config)?.join(", ")));
    Ok(())
}
