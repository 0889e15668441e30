//! The closed list of keys, and what to say to a typo.

/// One key of the server's configuration.
pub(super) struct Key {
    /// Its path: `limits.cache`.
    pub(super) path: &'static str,
    /// What a flag's or a variable's text is read as.
    pub(super) kind: Kind,
}

/// What a text is read as. In the file, TOML says it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    /// Between 0 and 1.
    Fraction,
    Switch,
    /// Separated by commas.
    List,
    /// `NAME=VALUE`, separated by commas.
    Map,
}

impl Key {
    const fn new(path: &'static str, kind: Kind) -> Self {
        Self { path, kind }
    }

    /// The variable that sets it: `FLOTILLA_LIMITS_CACHE`; for telemetry without its table's
    /// name: `FLOTILLA_LOG`.
    pub(super) fn variable(&self) -> String {
        let path = self.path.strip_prefix("telemetry.").unwrap_or(self.path);
        format!("FLOTILLA_{}", path.replace('.', "_").to_uppercase())
    }
}

/// Every key, in the order of `config.toml`.
pub(super) const KEYS: &[Key] = &[
    Key::new("services", Kind::List),
    Key::new("data_dir", Kind::Text),
    Key::new("listen", Kind::Text),
    Key::new("health_listen", Kind::Text),
    Key::new("unauthenticated", Kind::Switch),
    Key::new("cluster.name", Kind::Text),
    Key::new("cluster.id", Kind::Number),
    Key::new("cluster.ordinal", Kind::Number),
    Key::new("cluster.voters", Kind::Number),
    Key::new("cluster.peers", Kind::Map),
    Key::new("cluster.peers_dns", Kind::Text),
    Key::new("cluster.secret_file", Kind::Text),
    Key::new("cluster.heartbeat", Kind::Text),
    Key::new("cluster.election", Kind::Text),
    Key::new("remote_services.users", Kind::List),
    Key::new("remote_services.records", Kind::List),
    Key::new("remote_services.threads", Kind::List),
    Key::new("limits.concurrent_requests", Kind::Number),
    Key::new("limits.requests_per_caller", Kind::Number),
    Key::new("limits.streams", Kind::Number),
    Key::new("limits.streams_per_caller", Kind::Number),
    Key::new("limits.connections", Kind::Number),
    Key::new("limits.streams_per_connection", Kind::Number),
    Key::new("limits.header_size", Kind::Text),
    Key::new("limits.messages_in_work", Kind::Text),
    Key::new("limits.waiting_transactions", Kind::Number),
    Key::new("limits.cache", Kind::Text),
    Key::new("limits.min_free_disk", Kind::Text),
    Key::new("limits.feed_retention_size", Kind::Text),
    Key::new("limits.feed_retention", Kind::Text),
    Key::new("limits.snapshot_log", Kind::Text),
    Key::new("limits.catch_up", Kind::Text),
    Key::new("limits.drain_delay", Kind::Text),
    Key::new("limits.drain", Kind::Text),
    Key::new("telemetry.log", Kind::Text),
    Key::new("telemetry.log_format", Kind::Text),
    Key::new("telemetry.slow_request", Kind::Text),
    Key::new("telemetry.debug", Kind::Switch),
    Key::new("telemetry.debug_exposed", Kind::Switch),
    Key::new("telemetry.otlp_endpoint", Kind::Text),
    Key::new("telemetry.trace_sample", Kind::Fraction),
];

/// Keys, and tables, that the design has and this version hasn't.
const LATER: &[&str] = &["discovery", "control_plane"];

/// The key with this path.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The variables of these keys, and of all keys of these tables.
pub(crate) fn variables_of(paths: &[&str]) -> Vec<String> {
    let within = |path: &str, key: &Key| {
        key.path.strip_prefix(path).is_some_and(|rest| matches!(rest.as_bytes(), [] | [b'.', ..]))
    };
    KEYS.iter().filter(|key| paths.iter().any(|path| within(path, key))).map(Key::variable).collect()
}

/// The key that this path is, or leads into: of a list an element, of a map an entry.
pub(super) fn holding(path: &str) -> Option<&'static Key> {
    let leads_into = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
    KEYS.iter().find(|key| path.strip_prefix(key.path).is_some_and(leads_into))
}

/// Whether a later version will have this key.
pub(super) fn is_later(path: &str) -> bool {
    LATER.iter().any(|later| path == *later || path.strip_prefix(later).is_some_and(|rest| rest.starts_with('.')))
}

/// Whether this is a table of keys.
pub(super) fn is_table(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// The known path that is most like this one.
pub(super) fn nearest_path(path: &str) -> Option<String> {
    let paths: Vec<&str> = KEYS.iter().map(|key| key.path).collect();
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    // A key in the wrong table is likelier than a typo.
    let moved = paths.iter().find(|known| last(known) == last(path));
    moved.copied().or_else(|| nearest(path, &paths)).map(str::to_owned)
}

/// The known name that is most like a mistyped one, unless none is like it.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), *candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_answered_with_the_nearest_key_and_nonsense_with_none() {
        assert_eq!(nearest_path("data_dri").as_deref(), Some("data_dir"));
        assert_eq!(nearest_path("limits.cahce").as_deref(), Some("limits.cache"));
        assert_eq!(nearest_path("cache").as_deref(), Some("limits.cache"));
        assert_eq!(nearest_path("zzz"), None);
    }

    #[test]
    fn variables_are_named_after_their_keys() {
        assert_eq!(find("data_dir").unwrap().variable(), "FLOTILLA_DATA_DIR");
        assert_eq!(find("limits.cache").unwrap().variable(), "FLOTILLA_LIMITS_CACHE");
        assert_eq!(find("telemetry.log").unwrap().variable(), "FLOTILLA_LOG");
    }

    #[test]
    fn keys_of_later_versions_are_known_as_such() {
        assert!(is_later("control_plane"));
        assert!(is_later("discovery.zone"));
        assert!(!is_later("cluster.name"));
    }
}
