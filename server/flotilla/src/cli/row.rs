//! Which columns each message has in a table.

use flotilla_proto::{
    cluster::v1::{Server, SpaceCheck},
    records::v1::{Record, Table},
    threads::v1::{Member, Thread},
    users::v1::User,
};
use prost_types::{Duration, Timestamp};

use super::json::to_json;

/// A message that is a row of a table.
pub(super) trait Row {
    /// The names of its columns.
    const COLUMNS: &'static [&'static str];

    /// One cell for each column.
    fn cells(&self) -> Vec<String>;
}

impl Row for User {
    const COLUMNS: &'static [&'static str] = &["ID", "EMAIL", "NAME", "LABELS", "CREATED", "UPDATED", "ETAG"];

    fn cells(&self) -> Vec<String> {
        let labels: Vec<String> = self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        vec![
            self.id.clone(),
            self.email.clone(),
            self.display_name.clone(),
            labels.join(","),
            time(self.create_time.as_ref()),
            time(self.update_time.as_ref()),
            self.etag.clone(),
        ]
    }
}

impl Row for Record {
    const COLUMNS: &'static [&'static str] = &["ID", "DOCUMENT", "UPDATED", "ETAG"];

    fn cells(&self) -> Vec<String> {
        vec![self.id.clone(), document(self), time(self.update_time.as_ref()), self.etag.clone()]
    }
}

impl Row for Table {
    const COLUMNS: &'static [&'static str] = &["TABLE"];

    fn cells(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

impl Row for Thread {
    const COLUMNS: &'static [&'static str] = &["ID", "NAME", "MEMBERS", "EVENTS", "CREATED", "UPDATED", "ETAG"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.display_name.clone(),
            self.member_count.to_string(),
            self.last_sequence.to_string(),
            time(self.create_time.as_ref()),
            time(self.update_time.as_ref()),
            self.etag.clone(),
        ]
    }
}

impl Row for Member {
    const COLUMNS: &'static [&'static str] = &["USER", "NAME", "JOINED", "AT"];

    fn cells(&self) -> Vec<String> {
        let at = format!("#{}", self.join_sequence);
        vec![self.user_id.clone(), self.display_name.clone(), time(self.join_time.as_ref()), at]
    }
}

impl Row for Server {
    const COLUMNS: &'static [&'static str] = &[
        "ID", "ADDRESS", "SERVICES", "ROLE", "LEADER", "STATE", "TERM", "LOG END", "APPLIED", "LAG", "VERSION",
        "UP SINCE",
    ];

    fn cells(&self) -> Vec<String> {
        let leads = if self.is_leader { "leads" } else { "" };
        vec![
            self.id.to_string(),
            self.address.clone(),
            self.services.join(","),
            word(self.role().as_str_name(), "ROLE_"),
            leads.to_owned(),
            word(self.state().as_str_name(), "STATE_"),
            self.term.to_string(),
            self.log_end.to_string(),
            self.applied_index.to_string(),
            lag(self.lag.as_ref()),
            self.version.clone(),
            time(self.start_time.as_ref()),
        ]
    }
}

/// An enum's value as a word: `LOG_FAILED` is "log failed".
pub(super) fn word(name: &str, prefix: &str) -> String {
    match name.strip_prefix(prefix).unwrap_or(name) {
        "UNSPECIFIED" => "?".to_owned(),
        name => name.to_lowercase().replace('_', " "),
    }
}

/// How far behind, to the millisecond.
fn lag(lag: Option<&Duration>) -> String {
    let Some(lag) = lag else { return "?".to_owned() };
    let millis = u64::try_from(lag.seconds).unwrap_or_default() * 1000 + lag.nanos.unsigned_abs() as u64 / 1_000_000;
    match (millis, lag.nanos) {
        (0, 0) => "0".to_owned(),
        (0, _) => "<1ms".to_owned(),
        _ => humantime::format_duration(std::time::Duration::from_millis(millis)).to_string(),
    }
}

/// A space at a server.
pub(super) struct Checked<'a> {
    pub(super) server: u64,
    pub(super) space: &'a SpaceCheck,
}

impl Row for Checked<'_> {
    const COLUMNS: &'static [&'static str] = &["SERVER", "SPACE", "ROWS", "HASH", "OK"];

    fn cells(&self) -> Vec<String> {
        let space = self.space;
        let hash = match space.expected_hash == space.actual_hash {
            true => space.actual_hash.clone(),
            false => format!("{} instead of {}", space.actual_hash, space.expected_hash),
        };
        let ok = if space.ok { "ok" } else { "DIFFERS" };
        vec![self.server.to_string(), space.space.clone(), space.rows.to_string(), hash, ok.to_owned()]
    }
}

/// How much of a document a table shows.
const DOCUMENT: usize = 60;

/// The beginning of a record's document.
pub(super) fn document(record: &Record) -> String {
    let text = record.document.as_ref().map_or_else(|| "{}".to_owned(), |document| to_json(document).to_string());
    match text.char_indices().nth(DOCUMENT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A time to the second, UTC.
pub(super) fn time(time: Option<&Timestamp>) -> String {
    let Some(time) = time else { return String::new() };
    Timestamp { seconds: time.seconds, nanos: 0 }.to_string()
}
