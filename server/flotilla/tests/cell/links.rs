//! Delayed links between servers: a proxy in the clients' namespace for each pair, whose delay is set at run time and
//! takes nothing from the throughput.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::Instant,
};

use crate::network::{Network, address, clients_host};

/// What may be under way in one direction of a connection, in reads of at most [`READ`].
const UNDER_WAY: usize = 4096;
const READ: usize = 64 << 10;

/// All links of a cell. Clones set the same delays.
#[derive(Clone)]
pub(crate) struct Links {
    /// By where from and where to, in microseconds.
    delays: Arc<BTreeMap<(u64, u64), AtomicU64>>,
}

impl Links {
    /// Puts a proxy between each two servers. Connections made before stay as they are.
    pub(crate) async fn between(network: &mut Network, servers: u64) -> Self {
        let pairs: Vec<(u64, u64)> = (1..=servers)
            .flat_map(|from| (1..=servers).map(move |to| (from, to)))
            .filter(|(from, to)| from != to)
            .collect();
        let links = Self { delays: Arc::new(pairs.iter().map(|pair| (*pair, AtomicU64::default())).collect()) };
        for (from, to) in pairs {
            let listener = TcpListener::bind((clients_host(), 0)).await.expect("an address");
            network.divert(from, to, listener.local_addr().expect("an address"));
            tokio::spawn(links.clone().serve(listener, from, to));
        }
        links
    }

    /// From now on what one server sends another takes so long.
    pub(crate) fn delay(&self, from: u64, to: u64, delay: Duration) {
        self.delays[&(from, to)].store(delay.as_micros() as u64, Ordering::Relaxed);
    }

    /// From now on everything between all servers takes so long, each way.
    pub(crate) fn delay_all(&self, delay: Duration) {
        self.delays.keys().for_each(|(from, to)| self.delay(*from, *to, delay));
    }

    /// From now on everything between a server and the others takes so long, each way.
    pub(crate) fn delay_server(&self, server: u64, delay: Duration) {
        let own = self.delays.keys().filter(|(from, to)| *from == server || *to == server);
        own.for_each(|(from, to)| self.delay(*from, *to, delay));
    }

    async fn serve(self, listener: TcpListener, from: u64, to: u64) {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(self.clone().carry(near, from, to, address(to)));
        }
    }

    async fn carry(self, near: TcpStream, from: u64, to: u64, target: SocketAddr) {
        // A connection that can't be made is one that breaks at once.
        let Ok(far) = TcpStream::connect(target).await else { return };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        tokio::join!(self.pass(near_in, far_out, (from, to)), self.pass(far_in, near_out, (to, from)));
    }

    async fn pass(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: (u64, u64)) {
        let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
        let delay = &self.delays[&way];
        let read = async move {
            let mut bytes = vec![0; READ];
            while let Ok(count @ 1..) = from.read(&mut bytes).await {
                let due = Instant::now() + Duration::from_micros(delay.load(Ordering::Relaxed));
                if sender.send((due, bytes[..count].to_vec())).await.is_err() {
                    return;
                }
            }
        };
        let write = async move {
            while let Some((due, bytes)) = receiver.recv().await {
                tokio::time::sleep_until(due).await;
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(read, write);
    }
}
