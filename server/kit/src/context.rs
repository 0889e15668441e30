//! What a service is given: its rows, the log, the feed, and the news that the
//! server is stopping.

use std::sync::Arc;

use flotilla_proto::{feed::v1 as feed, storage::v1::Condition};
use flotilla_replica::{Committed, Consistency, Cursor, Feed, Replica, Trace};
use flotilla_store::{Space, TransactionBuilder};
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tonic::{
    Response,
    metadata::{Ascii, MetadataValue},
};

use crate::{Call, Definition, Error, Intent, Local, MetricsRegistry, Page, View, request};

/// Metadata of answers: the revision that the answer shows.
pub const REVISION: &str = "flotilla-revision";
/// Metadata of answers: the id of the server that gave it.
pub const SERVER: &str = "flotilla-server";

/// Everything that one service may use. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
    metrics: MetricsRegistry,
}

struct Inner {
    replica: Replica,
    history: Arc<str>,
    space: Space,
    server: MetadataValue<Ascii>,
    shutdown: watch::Receiver<bool>,
    services: Local,
}

impl Context {
    /// The context of a service. `shutdown` turns true when the server begins
    /// to stop; `services` are those of the same server, this one included.
    pub fn new(replica: Replica, definition: &Definition, shutdown: watch::Receiver<bool>, services: Local) -> Self {
        let server = MetadataValue::from(replica.status().server);
        let history = replica.history();
        let inner = Inner { replica, history, space: definition.space, server, shutdown, services };
        Self { inner: Arc::new(inner), metrics: MetricsRegistry::default() }
    }

    /// The same, with its metrics on the server's page. Without this, they are
    /// counted and nobody sees them.
    pub fn with_metrics(self, metrics: MetricsRegistry) -> Self {
        Self { metrics, ..self }
    }

    /// Registers a service's own metrics, by their whole names without the
    /// `_total` of counters: nothing is put before them. To be called once,
    /// when the service is built.
    pub fn register_metrics(&self, register: impl FnOnce(&mut Registry)) {
        self.metrics.with(register);
    }

    /// The other services of this server, as a channel for their clients.
    pub fn services(&self) -> Local {
        self.inner.services.clone()
    }

    /// The rows, as current as the call asks for.
    ///
    /// # Errors
    /// If the call's deadline passes first, or nobody leads the cell.
    pub async fn read(&self, call: &Call) -> Result<View, Error> {
        self.view(call, call.consistency()).await
    }

    /// The rows, current whatever the call asks for: what a write depends on
    /// is read with this.
    ///
    /// # Errors
    /// As [`Context::read`].
    pub async fn latest(&self, call: &Call) -> Result<View, Error> {
        self.view(call, Consistency::Linearizable).await
    }

    /// The rows as this server has them now, whoever leads: for what follows
    /// the feed, and so knows what it has not seen yet.
    pub fn rows(&self) -> View {
        let store = self.inner.replica.store();
        let revision = store.revision();
        View::new(store, self.inner.space, revision)
    }

    async fn view(&self, call: &Call, consistency: Consistency) -> Result<View, Error> {
        call.check_deadline()?;
        let revision = self.inner.replica.read_barrier(consistency, call.deadline()).await?;
        Ok(View::new(self.inner.replica.store(), self.inner.space, revision))
    }

    /// Starts a transaction in the service's space.
    pub fn transaction(&self) -> TransactionBuilder {
        TransactionBuilder::new(self.inner.space)
    }

    /// Makes a transaction happen once for an intent: returns when it is on
    /// disk and applied. A retry changes nothing and returns what the first
    /// time did, with the answer that was given then, at most
    /// [`request::MAX_ANSWER`] bytes.
    ///
    /// # Errors
    /// [`Error::Conflict`] if a condition doesn't hold; [`Error::RequestIdReused`];
    /// or what keeps the log from taking it.
    pub async fn commit(
        &self,
        call: &Call,
        intent: &Intent,
        transaction: TransactionBuilder,
        answer: &[u8],
    ) -> Result<Committed, Error> {
        call.check_deadline()?;
        let mut transaction = transaction.build();
        transaction.request = Some(intent.to_storage(answer));
        let mut committed = self.inner.replica.propose_traced(transaction, call.deadline(), call.trace()).await?;
        committed.answer = request::answer_of(&committed.answer);
        Ok(committed)
    }

    /// What the first time did, if the request is a retry that is remembered.
    ///
    /// A service asks this before it refuses a change because of what it has
    /// read: the retry of a deletion finds nothing to delete, and succeeds all
    /// the same. (Conditions of a transaction need no such question.) It goes
    /// through the log, because only there retries are known.
    ///
    /// # Errors
    /// As [`Context::commit`], but never [`Error::Conflict`].
    pub async fn first_answer(&self, call: &Call, intent: &Intent) -> Result<Option<Committed>, Error> {
        let mut transaction = self.transaction().build();
        // No row is ever at this revision, so nothing but a retry succeeds.
        let never = Condition { table: "-".into(), revision: Some(u64::MAX), ..Condition::default() };
        transaction.conditions.push(never);
        transaction.request = Some(intent.to_storage(&[]));
        let answered = self.inner.replica.propose_traced(transaction, call.deadline(), call.trace()).await;
        match answered.map_err(Error::from) {
            Ok(mut committed) => {
                committed.answer = request::answer_of(&committed.answer);
                Ok(Some(committed))
            }
            Err(Error::Conflict { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Which page of a list a call asks for. The filters are everything that
    /// must be the same from page to page.
    ///
    /// # Errors
    /// As [`Page::new`].
    pub fn page(&self, call: &Call, filters: &[&str], size: i32, token: &str) -> Result<Page, Error> {
        Page::new(self.history(), call.method(), filters, size, token)
    }

    /// An answer, with the revision that it shows and this server's id.
    pub fn reply<T>(&self, revision: u64, message: T) -> Response<T> {
        let mut response = Response::new(message);
        response.metadata_mut().insert(REVISION, MetadataValue::from(revision));
        response.metadata_mut().insert(SERVER, self.inner.server.clone());
        response
    }

    pub(crate) fn replica(&self) -> &Replica {
        &self.inner.replica
    }

    /// The service's space.
    pub fn space(&self) -> Space {
        self.inner.space
    }

    /// The history that cursors and page tokens count in.
    pub fn history(&self) -> &str {
        &self.inner.history
    }

    /// This server's id in its cell.
    pub fn server_id(&self) -> u64 {
        self.inner.replica.status().server
    }

    /// A reader of the feed from a cursor on, or from now on.
    ///
    /// # Errors
    /// If the feed no longer has, or never had, what follows the cursor.
    pub fn feed(&self, from: Option<&Cursor>) -> Result<Feed, Error> {
        Ok(self.inner.replica.feed(from)?)
    }

    /// Where the feed stands now.
    pub fn cursor(&self) -> feed::Cursor {
        let revision = self.inner.replica.store().revision();
        feed::Cursor { history: self.history().to_owned(), revision, index: 0 }
    }

    /// The span of the transaction that made a revision, if it was a traced
    /// request of this server, and among the last 1,024 of them. What follows
    /// from the revision is a child of it: `traced!(trace, "push", bytes = 5)`.
    pub fn trace_of(&self, revision: u64) -> Option<Trace> {
        self.inner.replica.trace_of(revision)
    }

    /// Whether this server leads its cell, following changes.
    pub fn watch_leadership(&self) -> watch::Receiver<bool> {
        self.inner.replica.watch_leadership()
    }

    /// Whether the server is stopping.
    pub fn shutting_down(&self) -> bool {
        *self.inner.shutdown.borrow()
    }

    /// Returns when the server begins to stop.
    pub async fn until_shutdown(&self) {
        let mut shutdown = self.inner.shutdown.clone();
        // A sender that is gone can't say it any more: then there is no news.
        if shutdown.wait_for(|stopping| *stopping).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
