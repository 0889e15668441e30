//! What all commands take that change something.

use clap::Args;

/// Tells one intent from another.
#[derive(Debug, Args)]
pub(super) struct Intent {
    /// Repeat an earlier call's id so that it counts once [default: a new one]
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

impl Intent {
    /// The request's id; empty for one that the client makes.
    pub(super) fn id(self) -> String {
        self.request_id.unwrap_or_default()
    }
}
