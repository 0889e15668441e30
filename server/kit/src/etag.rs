//! Etags: which version of a resource somebody has read. An etag is the
//! revision of the row behind the resource, and opaque to clients.

use std::fmt::Display;

use flotilla_proto::errors::v1::Reason;

use crate::{Refusal, fields::FieldViolation};

/// The etag of a row that was last written at a revision.
pub fn of(revision: u64) -> String {
    format!("{revision:x}")
}

/// The revision that an etag in a request stands for; none if it is empty.
///
/// # Errors
/// If it isn't one that [`of`] gives.
pub fn parse(field: &str, etag: &str) -> Result<Option<u64>, FieldViolation> {
    if etag.is_empty() {
        return Ok(None);
    }
    match u64::from_str_radix(etag, 16) {
        Ok(revision) if revision > 0 && of(revision) == etag => Ok(Some(revision)),
        _ => Err(FieldViolation::new(field, "is not an etag: give back exactly what an answer carried")),
    }
}

/// The refusal of a change to a version that isn't the current one. `what`
/// names the resource, `current` is its revision if it still exists.
pub fn stale(what: impl Display, current: Option<u64>) -> Refusal {
    let message = match current {
        Some(_) => format!("{what} was changed since this etag was read: read it again and decide anew"),
        None => format!("{what} no longer exists: it was deleted since this etag was read"),
    };
    let refusal = Refusal::new(Reason::EtagStale, message);
    match current {
        Some(revision) => refusal.with("etag", of(revision)),
        None => refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_recognised_again() {
        for revision in [1, 10, 255, u64::MAX] {
            assert_eq!(parse("etag", &of(revision)), Ok(Some(revision)));
        }
        assert_eq!(parse("etag", ""), Ok(None));
    }

    #[test]
    fn what_is_not_an_etag_is_refused_by_name() {
        for etag in ["0", "01", "+1", "A", "xyz", " 1", "\"1\"", "10000000000000000", "é"] {
            let violation = parse("user.etag", etag).expect_err(etag);
            assert_eq!(violation.field, "user.etag");
        }
    }
}
