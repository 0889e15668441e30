//! One call of one method: who calls, until when an answer is wanted, and how
//! current it must be. Read from the call's metadata and nothing else.

use std::time::Duration;

use flotilla_replica::{Consistency, Trace};
use tokio::time::Instant;
use tonic::{Request, metadata::MetadataMap};

use crate::{
    Error,
    fields::{FieldViolation, Violations},
};

/// Metadata: the user on whose behalf the call is made.
pub const USER: &str = "flotilla-user";
/// Metadata: the device from which it is made.
pub const DEVICE: &str = "flotilla-device";
/// Metadata: `linearizable` (the default) or `local`.
pub const CONSISTENCY: &str = "flotilla-consistency";
/// Metadata: how far behind a server may be that is read locally, such as `500ms` or `5s`. Alone it
/// means `local`.
pub const MAX_LAG: &str = "flotilla-max-lag";

const TIMEOUT: &str = "grpc-timeout";
/// How long a call without a deadline may take.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long any call may take; streams only until they begin.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// Bytes of a user's or device's name.
const MAX_NAME: usize = 128;

/// One call of one method.
#[derive(Debug, Clone)]
pub struct Call {
    method: &'static str,
    user: String,
    device: String,
    consistency: Consistency,
    deadline: Instant,
    trace: Option<Trace>,
}

impl Call {
    /// Takes a request apart: the call, and the message.
    ///
    /// # Errors
    /// If metadata that has a meaning to us makes no sense.
    pub fn of<T>(method: &'static str, request: Request<T>) -> Result<(Self, T), Error> {
        let mut call = Self::from_metadata(method, request.metadata())?;
        call.trace = request.extensions().get::<Trace>().copied();
        Ok((call, request.into_inner()))
    }

    fn from_metadata(method: &'static str, metadata: &MetadataMap) -> Result<Self, Error> {
        let mut violations = Violations::default();
        let user = violations.check(name(metadata, USER));
        let device = violations.check(name(metadata, DEVICE));
        let consistency = violations.check(consistency(metadata));
        let timeout = metadata.get(TIMEOUT).and_then(|value| timeout(value.to_str().ok()?));
        let timeout = timeout.unwrap_or(DEFAULT_TIMEOUT).min(MAX_TIMEOUT);
        violations.finish()?;
        Ok(Self { method, user, device, consistency, deadline: Instant::now() + timeout, trace: None })
    }

    /// The method's name, of those of the service.
    pub fn method(&self) -> &'static str {
        self.method
    }

    /// Who calls; empty if the call doesn't say.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Who calls, for a method that acts for its caller.
    ///
    /// # Errors
    /// [`Error::CallerMissing`] if the call doesn't say.
    pub fn require_user(&self) -> Result<&str, Error> {
        match self.user.is_empty() {
            true => Err(Error::CallerMissing { key: USER }),
            false => Ok(&self.user),
        }
    }

    /// From which device, for a method that acts for one.
    ///
    /// # Errors
    /// [`Error::CallerMissing`] if the call doesn't say.
    pub fn require_device(&self) -> Result<&str, Error> {
        match self.device.is_empty() {
            true => Err(Error::CallerMissing { key: DEVICE }),
            false => Ok(&self.device),
        }
    }

    /// From which device; empty if the call doesn't say.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// How current what it reads must be.
    pub fn consistency(&self) -> Consistency {
        self.consistency
    }

    /// Until when it wants an answer.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Its span, if it is traced.
    pub fn trace(&self) -> Option<Trace> {
        self.trace
    }

    /// Refuses a call for whose answer nobody waits any more.
    ///
    /// # Errors
    /// [`Error::DeadlineExpired`].
    pub fn check_deadline(&self) -> Result<(), Error> {
        match self.deadline <= Instant::now() {
            true => Err(Error::DeadlineExpired),
            false => Ok(()),
        }
    }
}

fn text<'a>(metadata: &'a MetadataMap, key: &'static str) -> Result<&'a str, FieldViolation> {
    match metadata.get(key) {
        Some(value) => value.to_str().map_err(|_| FieldViolation::new(key, "has characters beyond printable ASCII")),
        None => Ok(""),
    }
}

fn name(metadata: &MetadataMap, key: &'static str) -> Result<String, FieldViolation> {
    let name = text(metadata, key)?;
    match name.len() > MAX_NAME {
        true => Err(FieldViolation::new(key, format!("is {} bytes long; at most {MAX_NAME} are possible", name.len()))),
        false => Ok(name.to_owned()),
    }
}

fn consistency(metadata: &MetadataMap) -> Result<Consistency, FieldViolation> {
    let max_lag = match text(metadata, MAX_LAG)? {
        "" => None,
        lag => {
            let parsed = humantime::parse_duration(lag);
            let wrong = |_| FieldViolation::new(MAX_LAG, format!("is {lag:?}; it must look like 500ms or 5s"));
            Some(parsed.map_err(wrong)?)
        }
    };
    match (text(metadata, CONSISTENCY)?, max_lag) {
        ("" | "linearizable", None) => Ok(Consistency::Linearizable),
        ("" | "local", max_lag) => Ok(Consistency::Local { max_lag }),
        ("linearizable", Some(_)) => {
            Err(FieldViolation::new(MAX_LAG, format!("has no meaning where {CONSISTENCY} is linearizable")))
        }
        (other, _) => Err(FieldViolation::new(CONSISTENCY, format!("is {other:?}; it can be linearizable or local"))),
    }
}

/// The value of `grpc-timeout`: at most eight digits and a unit. One that can't
/// be read is none, as in tonic.
pub fn timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(metadata: &[(&'static str, &'static str)]) -> Result<Call, Error> {
        let mut request = Request::new(());
        for (key, value) in metadata {
            request.metadata_mut().insert(*key, value.parse().expect("metadata"));
        }
        Call::of("Test", request).map(|(call, ())| call)
    }

    fn refused_field(metadata: &[(&'static str, &'static str)]) -> String {
        match call(metadata) {
            Err(Error::InvalidFields(violations)) => violations[0].field.clone(),
            other => panic!("expected a violation, got {other:?}"),
        }
    }

    #[test]
    fn a_call_without_metadata_is_anonymous_linearizable_and_bounded() {
        let call = call(&[]).expect("a call");
        assert_eq!((call.user(), call.device(), call.consistency()), ("", "", Consistency::Linearizable));
        let left = call.deadline() - Instant::now();
        assert!(left <= DEFAULT_TIMEOUT && left > DEFAULT_TIMEOUT / 2, "{left:?}");
        assert!(matches!(call.require_user(), Err(Error::CallerMissing { key: USER })));
    }

    #[test]
    fn the_caller_and_its_wishes_are_read_from_metadata() {
        let call = call(&[(USER, "ada"), (DEVICE, "phone"), (CONSISTENCY, "local"), (TIMEOUT, "99999999H")]);
        let call = call.expect("a call");
        let local = Consistency::Local { max_lag: None };
        assert_eq!((call.user(), call.device(), call.consistency()), ("ada", "phone", local));
        assert!(call.deadline() - Instant::now() <= MAX_TIMEOUT);
    }

    #[test]
    fn an_expired_deadline_is_noticed() {
        let call = call(&[(TIMEOUT, "0n")]).expect("a call");
        assert!(matches!(call.check_deadline(), Err(Error::DeadlineExpired)));
    }

    #[test]
    fn timeouts_are_read_with_their_unit() {
        assert_eq!(timeout("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(timeout("3M"), Some(Duration::from_secs(180)));
        assert_eq!(timeout("150m"), Some(Duration::from_millis(150)));
        assert_eq!(timeout("7u"), Some(Duration::from_micros(7)));
        for malformed in ["", "S", "5", "5s", "-5S", "+5S", "123456789S", "5é"] {
            assert_eq!(timeout(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn a_bound_on_staleness_means_a_local_read() {
        let call = call(&[(MAX_LAG, "500ms")]).expect("a call");
        assert_eq!(call.consistency(), Consistency::Local { max_lag: Some(Duration::from_millis(500)) });
        assert_eq!(refused_field(&[(MAX_LAG, "soon")]), MAX_LAG);
        assert_eq!(refused_field(&[(MAX_LAG, "1s"), (CONSISTENCY, "linearizable")]), MAX_LAG);
    }

    #[test]
    fn metadata_that_makes_no_sense_is_refused_by_name() {
        assert_eq!(refused_field(&[(CONSISTENCY, "eventual")]), CONSISTENCY);
        let long: &'static str = "u".repeat(129).leak();
        assert_eq!(refused_field(&[(USER, long)]), USER);
    }
}
