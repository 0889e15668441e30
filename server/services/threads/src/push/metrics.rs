//! What is counted of outboxes and push.

use std::time::Duration;

use flotilla_kit::Context;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Unit,
};

use crate::events;

/// The counters. Clones count together.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(super) subscribers: Gauge,
    pub(super) threads: Gauge,
    pub(super) behind: Gauge,
    pub(super) deliveries: Counter,
    pub(super) bytes: Counter,
    pub(super) wakeups: Counter,
    pub(super) takeovers: Counter,
    pub(super) resets: Counter,
    delay: Histogram,
    events: Family<Kind, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

impl Metrics {
    /// Counters that are on the server's page.
    pub(super) fn new(context: &Context) -> Self {
        let metrics = Self {
            subscribers: Gauge::default(),
            threads: Gauge::default(),
            behind: Gauge::default(),
            deliveries: Counter::default(),
            bytes: Counter::default(),
            wakeups: Counter::default(),
            takeovers: Counter::default(),
            resets: Counter::default(),
            // From 20 µs to 10 s in steps of two.
            delay: Histogram::new((0..20).map(|power| 0.000_02 * f64::from(1 << power))),
            events: Family::default(),
        };
        // There from the beginning, so that the first event of a kind is an increase.
        for kind in events::KINDS {
            let _ = metrics.events.get_or_create(&Kind { kind });
        }
        context.register_metrics(|registry| {
            let all = metrics.clone();
            registry.register("flotilla_push_subscribers", "Devices whose streams are open", all.subscribers);
            registry.register("flotilla_push_threads", "Threads that somebody subscribes to", all.threads);
            registry.register(
                "flotilla_push_behind",
                "Streams that read the outbox, because what they need is no longer in memory",
                all.behind,
            );
            registry.register("flotilla_push_deliveries", "Events handed to streams", all.deliveries);
            registry.register("flotilla_push_bytes", "Bytes of events handed to streams", all.bytes);
            registry.register("flotilla_push_wakeups", "Streams that were told of news", all.wakeups);
            registry.register("flotilla_push_takeovers", "Streams that a newer one of the device ended", all.takeovers);
            registry.register("flotilla_push_resets", "Threads that could not start where the client was", all.resets);
            registry.register_with_unit(
                "flotilla_push_delay",
                "From an event's being applied to a stream's taking it, for streams that follow",
                Unit::Seconds,
                all.delay,
            );
            registry.register("flotilla_outbox_events", "Events of all threads, by kind", all.events);
        });
        metrics
    }

    /// An event was applied.
    pub(super) fn applied(&self, kind: &'static str) {
        self.events.get_or_create(&Kind { kind }).inc();
    }

    /// Some events were handed to a stream.
    pub(super) fn delivered(&self, events: u64, bytes: u64) {
        self.deliveries.inc_by(events);
        self.bytes.inc_by(bytes);
    }

    /// A stream took the first event it was told of. One in sixteen is enough to know.
    pub(super) fn delayed(&self, delay: Duration) {
        self.delay.observe(delay.as_secs_f64());
    }
}
