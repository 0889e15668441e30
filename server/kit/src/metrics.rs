//! Where a service's own counters go: the registry that the server's page of
//! metrics is made of. It counts nothing itself.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::registry::Registry;

/// The server's registry of metrics. Clones share it.
#[derive(Clone, Default)]
pub struct MetricsRegistry {
    registry: Arc<Mutex<Registry>>,
}

impl MetricsRegistry {
    /// Does something with the registry: registers metrics, or writes them
    /// out. No metric is registered or written meanwhile, so it must be brief.
    pub fn with<R>(&self, action: impl FnOnce(&mut Registry) -> R) -> R {
        action(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
