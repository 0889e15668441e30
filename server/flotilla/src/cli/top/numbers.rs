//! What two pages of metrics, a moment apart, say of a server.

use std::time::Duration;

use super::page::Page;

/// A server between two looks at it. What it doesn't tell is none.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Numbers {
    pub(super) version: Option<String>,
    pub(super) ready: bool,
    pub(super) leads: bool,
    pub(super) log_failed: bool,
    pub(super) up: Option<Duration>,
    /// The busiest first.
    pub(super) methods: Vec<Method>,
    /// A second, like all that follow and are counted.
    pub(super) calls: f64,
    pub(super) errors: f64,
    pub(super) writes: f64,
    pub(super) fsyncs: f64,
    /// In seconds.
    pub(super) fsync_p99: Option<f64>,
    /// Transactions an entry, on the average.
    pub(super) group: Option<f64>,
    pub(super) waiting: Option<f64>,
    pub(super) waiting_limit: Option<f64>,
    /// Entries.
    pub(super) apply_lag: Option<f64>,
    /// Revisions.
    pub(super) feed_lag: Option<f64>,
    pub(super) readers: Option<f64>,
    pub(super) subscribers: Option<f64>,
    pub(super) behind: Option<f64>,
    pub(super) deliveries: Option<f64>,
    /// Bytes.
    pub(super) memory: Option<f64>,
    /// Of one core.
    pub(super) cpu: Option<f64>,
    /// Bytes.
    pub(super) disk_free: Option<f64>,
}

/// One method's calls.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Method {
    pub(super) name: String,
    pub(super) calls: f64,
    pub(super) errors: f64,
    /// In seconds.
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
}

const HANDLED: &str = "grpc_server_handled_total";
const HANDLING: &str = "grpc_server_handling_seconds";
const METHOD: &str = "grpc_method";

impl Numbers {
    /// From two pages, so much apart; `now` is in seconds since 1970.
    pub(super) fn between(before: &Page, after: &Page, apart: Duration, now: f64) -> Self {
        // Another process counts from 0.
        let started = after.sum("process_start_time_seconds");
        let nothing = Page::default();
        let before = if before.sum("process_start_time_seconds") == started { before } else { &nothing };
        let span = Span { before, after, seconds: apart.as_secs_f64().max(0.001) };
        let methods = span.methods();
        let gauge = |name: &str| after.sum(name);
        let entries = span.grown("flotilla_log_group_transactions_count");
        let transactions = span.grown("flotilla_log_group_transactions_sum");
        Self {
            version: after.label("flotilla_build_info", "version").map(str::to_owned),
            ready: gauge("flotilla_ready") == Some(1.0),
            leads: gauge("flotilla_raft_leads") == Some(1.0),
            log_failed: gauge("flotilla_log_failed") == Some(1.0),
            up: started.and_then(|started| Duration::try_from_secs_f64(now - started).ok()),
            calls: methods.iter().map(|method| method.calls).sum(),
            errors: methods.iter().map(|method| method.errors).sum(),
            methods,
            writes: span.rate("flotilla_log_committed_total").unwrap_or_default(),
            fsyncs: span.rate("flotilla_log_fsyncs_total").unwrap_or_default(),
            fsync_p99: span.quantile("flotilla_log_fsync_seconds", None, 0.99),
            group: entries.zip(transactions).filter(|(entries, _)| *entries > 0.0).map(|(entries, sum)| sum / entries),
            waiting: gauge("flotilla_log_waiting"),
            waiting_limit: gauge("flotilla_log_waiting_limit"),
            apply_lag: gauge("flotilla_log_apply_lag"),
            feed_lag: gauge("flotilla_feed_behind_revisions"),
            readers: gauge("flotilla_feed_readers"),
            subscribers: gauge("flotilla_push_subscribers"),
            behind: gauge("flotilla_push_behind"),
            deliveries: span.rate("flotilla_push_deliveries_total"),
            memory: gauge("process_resident_memory_bytes"),
            cpu: span.rate("process_cpu_seconds_total"),
            disk_free: gauge("flotilla_disk_free_bytes"),
        }
    }
}

/// Two pages and the seconds between them.
struct Span<'a> {
    before: &'a Page,
    after: &'a Page,
    seconds: f64,
}

impl Span<'_> {
    fn grown(&self, name: &str) -> Option<f64> {
        let after = self.after.sum(name)?;
        Some((after - self.before.sum(name).unwrap_or_default()).max(0.0))
    }

    fn rate(&self, name: &str) -> Option<f64> {
        self.grown(name).map(|grown| grown / self.seconds)
    }

    fn methods(&self) -> Vec<Method> {
        let (calls_before, calls) = (self.before.by(HANDLED, METHOD), self.after.by(HANDLED, METHOD));
        let failed = |page| Page::by_except(page, HANDLED, METHOD, "grpc_code", "OK");
        let (errors_before, errors) = (failed(self.before), failed(self.after));
        let rate = |before: Option<&f64>, after: Option<&f64>| {
            (after.copied().unwrap_or_default() - before.copied().unwrap_or_default()).max(0.0) / self.seconds
        };
        let method = |(name, calls): (&str, &f64)| Method {
            name: name.to_owned(),
            calls: rate(calls_before.get(name), Some(calls)),
            errors: rate(errors_before.get(name), errors.get(name)),
            p50: self.quantile(HANDLING, Some((METHOD, name)), 0.5),
            p99: self.quantile(HANDLING, Some((METHOD, name)), 0.99),
        };
        let mut methods: Vec<Method> = calls.iter().map(|(&name, calls)| method((name, calls))).collect();
        methods.sort_by(|a, b| b.calls.total_cmp(&a.calls).then_with(|| a.name.cmp(&b.name)));
        methods
    }

    /// As Prometheus' histogram_quantile; none if nothing was observed.
    fn quantile(&self, name: &str, of: Option<(&str, &str)>, quantile: f64) -> Option<f64> {
        let before = self.before.buckets(name, of);
        let known = |bound: f64| before.iter().find(|(known, _)| *known == bound).map_or(0.0, |(_, count)| *count);
        let buckets = self.after.buckets(name, of).into_iter().map(|(bound, count)| (bound, count - known(bound)));
        let buckets: Vec<(f64, f64)> = buckets.collect();
        let total = buckets.last().map(|(_, count)| *count).filter(|total| *total > 0.0)?;
        let rank = quantile * total;
        let (mut lower, mut counted) = (0.0, 0.0);
        for (bound, count) in buckets {
            if count >= rank {
                let within = if count > counted { (rank - counted) / (count - counted) } else { 1.0 };
                return Some(if bound.is_finite() { lower + (bound - lower) * within } else { lower });
            }
            (lower, counted) = (bound, count);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(start: u64, calls: u64, fast: u64) -> Page {
        Page::read(&format!(
            "process_start_time_seconds {start}\nprocess_cpu_seconds_total {}\nflotilla_ready 1\n\
             grpc_server_handled_total{{grpc_method=\"Get\",grpc_code=\"OK\"}} {calls}\n\
             grpc_server_handled_total{{grpc_method=\"Get\",grpc_code=\"NotFound\"}} {}\n\
             grpc_server_handling_seconds_bucket{{grpc_method=\"Get\",le=\"0.1\"}} {fast}\n\
             grpc_server_handling_seconds_bucket{{grpc_method=\"Get\",le=\"0.3\"}} {calls}\n\
             grpc_server_handling_seconds_bucket{{grpc_method=\"Get\",le=\"+Inf\"}} {calls}\n",
            calls as f64 / 100.0,
            calls / 10,
        ))
    }

    #[test]
    fn rates_and_quantiles_are_of_the_time_between_two_pages() {
        let numbers = Numbers::between(&page(5, 100, 100), &page(5, 200, 150), Duration::from_secs(2), 65.0);
        let method = &numbers.methods[0];
        assert_eq!((method.name.as_str(), method.calls, method.errors), ("Get", 55.0, 5.0));
        assert_eq!((numbers.calls, numbers.errors, numbers.cpu), (55.0, 5.0, Some(0.5)));
        let close = |found: Option<f64>, wanted: f64| assert!((found.unwrap() - wanted).abs() < 1e-9, "{found:?}");
        close(method.p50, 0.1);
        close(method.p99, 0.296);
        assert_eq!((numbers.up, numbers.ready, numbers.leads), (Some(Duration::from_secs(60)), true, false));
        assert_eq!((numbers.subscribers, numbers.fsync_p99), (None, None));
    }

    #[test]
    fn a_server_that_started_anew_counts_from_nothing() {
        let numbers = Numbers::between(&page(5, 100, 100), &page(6, 20, 20), Duration::from_secs(1), 65.0);
        assert_eq!(numbers.methods[0].calls, 22.0);
    }

    #[test]
    fn without_calls_there_is_no_quantile() {
        let numbers = Numbers::between(&page(5, 100, 100), &page(5, 100, 100), Duration::from_secs(1), 65.0);
        assert_eq!((numbers.calls, numbers.methods[0].p99), (0.0, None));
    }
}
