//! The way to a server that dies and comes back elsewhere, or to the servers of a cell: connections know where they are
//! at the moment, go on to the next when one fails, and can be cut.

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpStream as Socket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
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

/// How long a call to one of several servers may take before the next is asked.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where the servers are, if they are anywhere. Clones tell the same.
#[derive(Clone, Default)]
pub(crate) struct Network {
    addresses: Arc<Mutex<Vec<SocketAddr>>>,
    wires: Arc<AtomicUsize>,
    /// How long a call may take; none: as the client library has it.
    patience: Option<Duration>,
}

/// A connection that opens again by itself. Clones share it.
#[derive(Clone)]
pub(crate) struct Wire {
    channel: Channel,
    socket: Arc<Mutex<Option<Socket>>>,
    patience: Option<Duration>,
}

impl Network {
    /// The way to several servers. Each wire begins with another one.
    pub(crate) fn over(addresses: Vec<SocketAddr>) -> Self {
        Self { addresses: Arc::new(Mutex::new(addresses)), patience: Some(PATIENCE), ..Self::default() }
    }

    /// From now on connections lead to this port.
    pub(crate) fn up(&self, port: u16) {
        *self.addresses() = vec![SocketAddr::from(([127, 0, 0, 1], port))];
    }

    /// From now on no new connection is made. Said before a server goes: its port may soon be somebody else's.
    pub(crate) fn down(&self) {
        self.addresses().clear();
    }

    /// Another connection, made when it is needed.
    pub(crate) fn wire(&self) -> Wire {
        let (network, socket) = (self.clone(), Arc::<Mutex<Option<Socket>>>::default());
        let turn = Arc::new(AtomicUsize::new(self.wires.fetch_add(1, Ordering::Relaxed)));
        let kept = socket.clone();
        let connect = tower::service_fn(move |_: Uri| {
            let (network, kept) = (network.clone(), kept.clone());
            let address = network.address(turn.fetch_add(1, Ordering::Relaxed));
            async move {
                let address = address.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionRefused))?;
                let stream = TcpStream::connect(address).await?.into_std()?;
                stream.set_nodelay(true)?;
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream.try_clone()?);
                Ok::<_, io::Error>(TokioIo::new(TcpStream::from_std(stream)?))
            }
        });
        let mut endpoint = Endpoint::from_static("http://server.test");
        if let Some(patience) = self.patience {
            // A server that says nothing any more may be cut off, and others are there.
            endpoint =
                endpoint.connect_timeout(patience).http2_keep_alive_interval(patience).keep_alive_timeout(patience);
        }
        Wire { channel: endpoint.connect_with_connector_lazy(connect), socket, patience: self.patience }
    }

    fn address(&self, turn: usize) -> Option<SocketAddr> {
        let addresses = self.addresses();
        (!addresses.is_empty()).then(|| addresses[turn % addresses.len()])
    }

    fn addresses(&self) -> std::sync::MutexGuard<'_, Vec<SocketAddr>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire {
    /// A client over this connection that tells each failure at once.
    pub(crate) fn client(&self) -> Client {
        let mut target = Target::new("http://server.test").retries(RetryBudget { max_tokens: 0, token_ratio: 0.0 });
        target.timeout = self.patience.unwrap_or(target.timeout);
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
            // A server that was asleep may find that the call's time is over: its request id makes another try harmless.
            CallError::Refused(refusal) => {
                matches!(refusal.code, Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded)
            }
            _ => false,
        };
        assert!(passes, "{message:?} was answered {error:?}");
        assert!(Instant::now() < limit, "no answer to {message:?} within {INSIST_LIMIT:?}: {error}");
        tokio::time::sleep(INSIST_PAUSE).await;
    }
}
