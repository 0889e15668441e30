//! The way to a server that dies and comes back elsewhere: connections know where it is at the moment, and can be cut.

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpStream as Socket},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use flotilla_client::{CallError, Client, RetryBudget, Target, methods::Method};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::Instant};
use tonic::{
    Code,
    transport::{Channel, Endpoint, Uri},
};

/// How long a call is tried again.
const INSIST_LIMIT: Duration = Duration::from_secs(30);
const INSIST_PAUSE: Duration = Duration::from_millis(3);

/// Where the server is, if it is anywhere. Clones tell the same.
#[derive(Clone, Default)]
pub(crate) struct Network {
    address: Arc<Mutex<Option<SocketAddr>>>,
}

/// A connection that opens again by itself. Clones share it.
#[derive(Clone)]
pub(crate) struct Wire {
    channel: Channel,
    socket: Arc<Mutex<Option<Socket>>>,
}

impl Network {
    /// From now on connections lead to this port.
    pub(crate) fn up(&self, port: u16) {
        *self.address() = Some(SocketAddr::from(([127, 0, 0, 1], port)));
    }

    /// From now on no new connection is made. Said before a server goes: its port may soon be somebody else's.
    pub(crate) fn down(&self) {
        *self.address() = None;
    }

    /// Another connection, made when it is needed.
    pub(crate) fn wire(&self) -> Wire {
        let (network, socket) = (self.clone(), Arc::<Mutex<Option<Socket>>>::default());
        let kept = socket.clone();
        let connect = tower::service_fn(move |_: Uri| {
            let (network, kept) = (network.clone(), kept.clone());
            async move {
                let address = *network.address();
                let address = address.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionRefused))?;
                let stream = TcpStream::connect(address).await?.into_std()?;
                stream.set_nodelay(true)?;
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream.try_clone()?);
                Ok::<_, io::Error>(TokioIo::new(TcpStream::from_std(stream)?))
            }
        });
        let channel = Endpoint::from_static("http://server.test").connect_with_connector_lazy(connect);
        Wire { channel, socket }
    }

    fn address(&self) -> std::sync::MutexGuard<'_, Option<SocketAddr>> {
        self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire {
    /// A client over this connection that tells each failure at once.
    pub(crate) fn client(&self) -> Client {
        let target = Target::new("http://server.test").retries(RetryBudget { max_tokens: 0, token_ratio: 0.0 });
        Client::over(self.channel.clone(), &target).expect("a client")
    }

    /// As if a cable was pulled on both sides at once.
    pub(crate) fn cut(&self) {
        if let Some(socket) = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It may be closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Makes a call until it is answered, over every crash. A change must have its request id.
pub(crate) async fn insist<M: Method + Clone + std::fmt::Debug>(client: &Client, message: M) -> M::Answer {
    let limit = Instant::now() + INSIST_LIMIT;
    loop {
        let error = match client.call(message.clone()).await {
            Ok(answer) => return answer,
            Err(error) => error,
        };
        let passes = match &error {
            CallError::Unreachable { .. } | CallError::TimedOut { .. } => true,
            CallError::Refused(refusal) => matches!(refusal.code, Code::Unavailable | Code::ResourceExhausted),
            _ => false,
        };
        assert!(passes, "{message:?} was answered {error:?}");
        assert!(Instant::now() < limit, "no answer to {message:?} within {INSIST_LIMIT:?}: {error}");
        tokio::time::sleep(INSIST_PAUSE).await;
    }
}
