//! What a server counts, for Prometheus: calls by method and code, how long they took, how many
//! are in work; what the log counts; the process itself.
//!
//! Names and labels of calls are those of gRPC's other Prometheus libraries, so that their
//! dashboards fit. A method that isn't served is counted as `unknown`, so that strangers can't
//! make time series.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use flotilla_kit::MetricsRegistry;
use flotilla_replica::Replica;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Unit,
};
use tonic::Code;

use super::process::Process;
use crate::telemetry;

/// The registry and the families that calls are counted in. Clones count together.
#[derive(Clone)]
pub(super) struct Metrics {
    registry: MetricsRegistry,
    handled: Family<Handled, Counter>,
    seconds: Family<Method, Histogram, fn() -> Histogram>,
    in_flight: Family<Method, Gauge>,
    process: Process,
    ready: Gauge,
    replica: Arc<OnceLock<Replica>>,
}

/// The labels of a method.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    grpc_service: String,
    grpc_method: String,
}

/// The labels of a method's end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Handled {
    grpc_service: String,
    grpc_method: String,
    grpc_code: &'static str,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let metrics = Self {
            registry: MetricsRegistry::default(),
            handled: Family::default(),
            seconds: Family::new_with_constructor(durations),
            in_flight: Family::default(),
            process: Process::default(),
            ready: Gauge::default(),
            replica: Arc::default(),
        };
        metrics.registry.with(|registry| {
            registry.register("grpc_server_handled", "Calls that ended, by code", metrics.handled.clone());
            registry.register_with_unit(
                "grpc_server_handling",
                "From a call's first byte to its last; for streams their whole life",
                Unit::Seconds,
                metrics.seconds.clone(),
            );
            registry.register("grpc_server_in_flight", "Calls and streams that are open", metrics.in_flight.clone());
            metrics.process.register(registry);
            registry.register("flotilla_ready", "1: as /readyz says", metrics.ready.clone());
            let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
            registry.register("flotilla_build", "What runs", build);
            telemetry::traces::register(registry);
        });
        metrics
    }

    /// Adds what the log and the feed count.
    pub(super) fn register_replica(&self, replica: &Replica) {
        self.registry.with(|registry| replica.metrics().register(registry));
        // Only one is ever registered.
        let _ = self.replica.set(replica.clone());
    }

    /// A counter for each of the methods, by path (`/package.Service/Method`).
    pub(super) fn methods(&self, paths: Vec<String>) -> Methods {
        let count = |service: &str, method: &str| {
            let labels = Method { grpc_service: service.to_owned(), grpc_method: method.to_owned() };
            Arc::new(MethodMetrics {
                metrics: self.clone(),
                labels,
                used: OnceLock::new(),
                handled: std::array::from_fn(|_| OnceLock::new()),
            })
        };
        let by_path = paths.into_iter().filter_map(|path| {
            let (service, method) = path.strip_prefix('/')?.split_once('/')?;
            Some((path.clone(), count(service, method)))
        });
        Methods { by_path: by_path.collect(), unknown: count("unknown", "unknown") }
    }

    /// Everything, in the OpenMetrics text format. It asks the system and the disk, so it may block.
    pub(super) fn render(&self, ready: bool) -> String {
        self.ready.set(i64::from(ready));
        self.process.refresh();
        if let Some(replica) = self.replica.get() {
            replica.refresh_metrics();
        }
        let mut page = String::new();
        // Writing to a string doesn't fail.
        self.registry.with(|registry| _ = text::encode(&mut page, registry));
        page
    }

    /// Where services register what they count.
    pub(super) fn registry(&self) -> &MetricsRegistry {
        &self.registry
    }
}

/// The counters of all methods.
pub(super) struct Methods {
    by_path: HashMap<String, Arc<MethodMetrics>>,
    unknown: Arc<MethodMetrics>,
}

impl Methods {
    /// Those of the method that a request names.
    pub(super) fn of(&self, path: &str) -> &Arc<MethodMetrics> {
        self.by_path.get(path).unwrap_or(&self.unknown)
    }
}

/// The counters of one method. Each is made when it is first needed, so that a page isn't full of
/// zeros, and then found without a lookup.
pub(super) struct MethodMetrics {
    metrics: Metrics,
    labels: Method,
    used: OnceLock<(Histogram, Gauge)>,
    /// By code.
    handled: [OnceLock<Counter>; 17],
}

impl MethodMetrics {
    /// The service and the method, as they are labelled.
    pub(super) fn names(&self) -> (&str, &str) {
        (&self.labels.grpc_service, &self.labels.grpc_method)
    }

    /// A call begins.
    pub(super) fn begin(&self) {
        self.used().1.inc();
    }

    /// A call that began has ended.
    pub(super) fn end(&self, code: Code, took: Duration) {
        let (seconds, in_flight) = self.used();
        in_flight.dec();
        seconds.observe(took.as_secs_f64());
        if let Some(handled) = self.handled.get(code as usize) {
            handled.get_or_init(|| self.handled_with(code)).inc();
        }
    }

    fn used(&self) -> &(Histogram, Gauge) {
        self.used.get_or_init(|| {
            let seconds = self.metrics.seconds.get_or_create(&self.labels).clone();
            (seconds, self.metrics.in_flight.get_or_create(&self.labels).clone())
        })
    }

    fn handled_with(&self, code: Code) -> Counter {
        let Method { grpc_service, grpc_method } = self.labels.clone();
        let labels = Handled { grpc_service, grpc_method, grpc_code: code_name(code) };
        self.metrics.handled.get_or_create(&labels).clone()
    }
}

/// From 50 µs to 26 s in steps of two.
fn durations() -> Histogram {
    Histogram::new((0..20).map(|power| 0.000_05 * f64::from(1 << power)))
}

/// A code's name as gRPC's other libraries label it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_method_and_code_and_strangers_under_one_name() {
        let metrics = Metrics::new();
        let methods = metrics.methods(vec!["/p.Users/Get".to_owned()]);
        for (path, code) in
            [("/p.Users/Get", Code::Ok), ("/evil/1", Code::Unimplemented), ("/evil/2", Code::Unimplemented)]
        {
            methods.of(path).begin();
            methods.of(path).end(code, Duration::from_millis(1));
        }
        let page = metrics.render(true);
        let line = |text: &str| assert!(page.lines().any(|line| line == text), "{text} is not in\n{page}");
        line(r#"grpc_server_handled_total{grpc_service="p.Users",grpc_method="Get",grpc_code="OK"} 1"#);
        line(r#"grpc_server_handled_total{grpc_service="unknown",grpc_method="unknown",grpc_code="Unimplemented"} 2"#);
        line(r#"grpc_server_in_flight{grpc_service="p.Users",grpc_method="Get"} 0"#);
        assert!(!page.contains("evil"), "{page}");
    }
}
