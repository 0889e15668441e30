//! The two ports of a server.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::{Addresses, ServeError};
use crate::config::Config;

/// Bound, and not served yet.
pub struct Listeners {
    pub(super) api: TcpListener,
    pub(super) health: TcpListener,
}

impl Listeners {
    /// Takes listeners that are bound already.
    pub fn new(api: TcpListener, health: TcpListener) -> Self {
        Self { api, health }
    }

    /// Binds the addresses of a config; port 0 takes any free one.
    ///
    /// # Errors
    /// If one can't be had.
    pub async fn bind(config: &Config) -> Result<Self, ServeError> {
        let api = bind(config.listen, "gRPC").await?;
        let health = bind(config.health_address()?, "health and metrics").await?;
        Ok(Self { api, health })
    }

    /// Where they listen.
    ///
    /// # Errors
    /// If the system doesn't tell.
    pub fn addresses(&self) -> Result<Addresses, ServeError> {
        let address = |listener: &TcpListener| listener.local_addr().map_err(ServeError::Address);
        Ok(Addresses { api: address(&self.api)?, health: address(&self.health)? })
    }
}

async fn bind(address: SocketAddr, what: &'static str) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Bind { address, what, source })
}
