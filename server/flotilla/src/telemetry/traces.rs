//! The spans of sampled requests, on their way to a collector that speaks OTLP over gRPC.
//!
//! A layer turns each span of [`flotilla_replica::trace`] that has ended into an OTLP span and puts
//! it into a bounded queue; a task sends what is there. A request never waits for any of it: what
//! has no room, or can't be sent, is counted and gone. OpenTelemetry's own SDK isn't used, because
//! it takes headers and limits from variables that aren't ours, doesn't tell how many spans it
//! dropped, and keeps a span open for as long as it has children.

use std::{
    fmt,
    sync::{LazyLock, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flotilla_replica::trace::TARGET;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind, status::StatusCode},
};
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tonic::transport::{Channel, Endpoint};
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer,
    filter::{FilterFn, filter_fn},
    layer::Context,
    registry::LookupSpan,
};

/// Spans that may wait to be sent; more are dropped.
const QUEUE: usize = 2048;
/// Spans of one message, at most.
const BATCH: usize = 512;
/// How long a span waits for company.
const GATHER: Duration = Duration::from_secs(1);
/// How long sending may take.
const SEND: Duration = Duration::from_secs(5);
/// How long stopping waits for what is in the queue.
const FLUSH: Duration = Duration::from_secs(2);
/// At most one warning in this time.
const WARNINGS: Duration = Duration::from_secs(60);

/// Spans of this process, for the page of metrics.
#[derive(Default)]
struct Counters {
    exported: Counter,
    dropped: Counter,
}

static COUNTERS: LazyLock<Counters> = LazyLock::new(Counters::default);
/// Asks the task to send all that waits.
static FLUSHES: OnceLock<mpsc::Sender<oneshot::Sender<()>>> = OnceLock::new();

/// Names the counters in a registry.
pub(crate) fn register(registry: &mut Registry) {
    let traces = registry.sub_registry_with_prefix("flotilla_trace");
    traces.register("spans_exported", "Spans that a collector took", COUNTERS.exported.clone());
    let help = "Spans that were dropped: the queue was full, or the collector didn't take them";
    traces.register("spans_dropped", help, COUNTERS.dropped.clone());
}

/// Begins to send spans to a collector, on the runtime that this is called on; none if the endpoint
/// is no address. The layer must become part of the process' subscriber.
pub(super) fn start<S>(endpoint: &str) -> Option<impl Layer<S> + use<S>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let channel = Endpoint::from_shared(endpoint.to_owned()).ok()?.connect_timeout(SEND).connect_lazy();
    let (spans, waiting) = mpsc::channel(QUEUE);
    let (flushes, flushing) = mpsc::channel(1);
    // If there is one, this process has started logging before, and that one goes on.
    FLUSHES.set(flushes).ok()?;
    let exporter = Exporter { client: TraceServiceClient::new(channel), endpoint: endpoint.to_owned(), warned: None };
    tokio::spawn(exporter.run(waiting, flushing));
    Some(SpanLayer { spans }.with_filter(only_traces()))
}

/// Sends what waits, within two seconds; what isn't sent by then is lost.
pub(crate) async fn stop() {
    let Some(flushes) = FLUSHES.get() else { return };
    let (done, sent) = oneshot::channel();
    let flush = async {
        if flushes.send(done).await.is_ok() {
            // Gone without an answer: there is nothing to wait for.
            let _ = sent.await;
        }
    };
    let _ = tokio::time::timeout(FLUSH, flush).await;
}

fn only_traces() -> FilterFn {
    filter_fn(|metadata| metadata.is_span() && metadata.target() == TARGET)
}

/// Makes OTLP spans of spans.
struct SpanLayer {
    spans: mpsc::Sender<Span>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for SpanLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut open = Open(Span {
            name: attributes.metadata().name().to_owned(),
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: now(),
            // Sampled, and it is known whether the parent is remote: W3C's flags and OTLP's own.
            flags: 0x101,
            ..Span::default()
        });
        attributes.record(&mut open);
        span.extensions_mut().insert(open);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(open) = span.extensions_mut().get_mut::<Open>() {
            values.record(open);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(Open(mut ended)) = span.extensions_mut().remove::<Open>() else { return };
        ended.end_time_unix_nano = now();
        if self.spans.try_send(ended).is_err() {
            COUNTERS.dropped.inc();
        }
    }
}

/// A span that hasn't ended. Its fields are its attributes, but for those that say where it belongs,
/// what it is called (`name`), that it answers a call (`server`) and that it failed (`failed`).
struct Open(Span);

impl Open {
    fn attribute(&mut self, field: &Field, value: Value) {
        let value = Some(AnyValue { value: Some(value) });
        self.0.attributes.push(KeyValue { key: field.name().to_owned(), value, ..KeyValue::default() });
    }
}

impl Visit for Open {
    fn record_u128(&mut self, field: &Field, value: u128) {
        match field.name() {
            "trace_id" => self.0.trace_id = value.to_be_bytes().into(),
            _ => self.attribute(field, Value::StringValue(value.to_string())),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "span_id" => self.0.span_id = value.to_be_bytes().into(),
            // A root has none.
            "parent_id" if value == 0 => {}
            "parent_id" => self.0.parent_span_id = value.to_be_bytes().into(),
            _ => self.attribute(field, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX))),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.attribute(field, Value::IntValue(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.attribute(field, Value::DoubleValue(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        match field.name() {
            "server" => self.0.kind = SpanKind::Server.into(),
            "failed" if value => {
                self.0.status = Some(Status { code: StatusCode::Error.into(), ..Status::default() });
            }
            "failed" => {}
            _ => self.attribute(field, Value::BoolValue(value)),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "name" => value.clone_into(&mut self.0.name),
            _ => self.attribute(field, Value::StringValue(value.to_owned())),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.attribute(field, Value::StringValue(format!("{value:?}")));
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Sends spans.
struct Exporter {
    client: TraceServiceClient<Channel>,
    endpoint: String,
    /// When the last warning was.
    warned: Option<Instant>,
}

impl Exporter {
    async fn run(mut self, mut spans: mpsc::Receiver<Span>, mut flushes: mpsc::Receiver<oneshot::Sender<()>>) {
        let mut batch = Vec::new();
        loop {
            let gathered = tokio::time::sleep(GATHER);
            tokio::pin!(gathered);
            let mut flush = None;
            while batch.len() < BATCH && flush.is_none() {
                let room = BATCH - batch.len();
                tokio::select! {
                    received = spans.recv_many(&mut batch, room) => if received == 0 { return },
                    asked = flushes.recv() => match asked {
                        Some(done) => flush = Some(done),
                        None => return,
                    },
                    () = &mut gathered => break,
                }
            }
            if flush.is_some() {
                while let Ok(span) = spans.try_recv() {
                    batch.push(span);
                }
            }
            if !batch.is_empty() {
                self.send(std::mem::take(&mut batch)).await;
            }
            if let Some(done) = flush {
                // Who asked may wait no longer.
                let _ = done.send(());
            }
        }
    }

    async fn send(&mut self, batch: Vec<Span>) {
        let count = batch.len() as u64;
        let sent = tokio::time::timeout(SEND, self.client.export(message(batch))).await;
        let (taken, problem) = match sent {
            Ok(Ok(answer)) => match answer.into_inner().partial_success {
                Some(partial) => (count.saturating_sub(partial.rejected_spans.unsigned_abs()), partial.error_message),
                None => (count, String::new()),
            },
            Ok(Err(status)) => (0, status.to_string()),
            Err(_) => (0, format!("no answer within {SEND:?}")),
        };
        COUNTERS.exported.inc_by(taken);
        let dropped = count - taken;
        COUNTERS.dropped.inc_by(dropped);
        if dropped > 0 && self.warned.is_none_or(|warned| warned.elapsed() >= WARNINGS) {
            self.warned = Some(Instant::now());
            let endpoint = &self.endpoint;
            let total = COUNTERS.dropped.get();
            tracing::warn!(endpoint, dropped, total, problem, "the collector of traces didn't take spans: dropped");
        }
    }
}

fn message(spans: Vec<Span>) -> ExportTraceServiceRequest {
    let text = |key: &str, text: &str| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(Value::StringValue(text.to_owned())) }),
        ..KeyValue::default()
    };
    let version = env!("CARGO_PKG_VERSION");
    let resource = Resource {
        attributes: vec![text("service.name", "flotilla"), text("service.version", version)],
        ..Resource::default()
    };
    let scope = InstrumentationScope { name: "flotilla".to_owned(), ..InstrumentationScope::default() };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }
}
