//! Which requests are traced, and the span of each that is.
//!
//! A caller that sends `traceparent` (W3C's trace context) decides for its requests; of the others,
//! a fraction is taken. Where spans go is `telemetry`'s business.

use flotilla_kit::{Trace, Traced};
use http::HeaderMap;
use tonic::Code;
use tracing::{Span, field::Empty, info_span};

/// The header of W3C's trace context.
pub(super) const TRACEPARENT: &str = "traceparent";

/// Decides which requests are traced.
#[derive(Clone, Copy)]
pub(in super::super) struct Sampler {
    /// Of the requests whose callers don't say.
    fraction: f64,
}

impl Sampler {
    /// `fraction` is between 0 and 1.
    pub(in super::super) fn new(fraction: f64) -> Self {
        Self { fraction }
    }

    /// The span of a request, if it is to be traced.
    pub(super) fn begin(self, headers: &HeaderMap, service: &str, method: &str) -> Option<Traced> {
        let parent = match headers.get(TRACEPARENT).and_then(|value| parse(value.to_str().ok()?)) {
            Some((parent, true)) => parent,
            Some((_, false)) => return None,
            None if rand::random::<f64>() < self.fraction => Trace { id: rand::random::<u128>().max(1), span: 0 },
            None => return None,
        };
        let own = parent.child();
        let span = info_span!(
            target: flotilla_replica::trace::TARGET,
            parent: None,
            "request",
            trace_id = own.id,
            span_id = own.span,
            parent_id = parent.span,
            server = true,
            name = format!("{service}/{method}").as_str(),
            rpc.system = "grpc",
            rpc.service = service,
            rpc.method = method,
            rpc.grpc.status_code = Empty,
            failed = Empty,
        );
        Some(Traced::new(own, span))
    }
}

/// What marks the log lines of a traced request.
pub(super) fn log_span(traced: &Traced) -> Span {
    info_span!("request", trace_id = format!("{:032x}", traced.trace().id).as_str())
}

/// Notes how a request ended. As OpenTelemetry has it, only what is the server's fault is a failure
/// of a server's span.
pub(super) fn ended(traced: &Traced, code: Code) {
    traced.record("rpc.grpc.status_code", code as i64);
    let failed = matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    );
    traced.record("failed", failed);
}

/// The caller's span, and whether it is sampled. What isn't well-formed is none.
fn parse(value: &str) -> Option<(Trace, bool)> {
    let mut parts = value.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // Later versions may have more parts.
    if version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let number = |text: &str, digits: usize| {
        let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let well_formed = text.len() == digits && text.bytes().all(hexadecimal);
        well_formed.then(|| u128::from_str_radix(text, 16).ok()).flatten()
    };
    number(version, 2)?;
    let id = number(trace, 32).filter(|id| *id != 0)?;
    let span = u64::try_from(number(span, 16)?).ok().filter(|span| *span != 0)?;
    Some((Trace { id, span }, number(flags, 2)? & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_callers_trace_context_is_read() {
        let trace = Trace { id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, span: 0xb7ad_6b71_6920_3331 };
        assert_eq!(parse(PARENT), Some((trace, true)));
        assert_eq!(parse(&PARENT.replace("-01", "-00")), Some((trace, false)));
        assert_eq!(parse(&format!("cc{}-more", &PARENT[2..])), Some((trace, true)));
    }

    #[test]
    fn what_is_no_trace_context_is_none() {
        for bad in [
            "",
            "00-1-2-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn callers_decide_for_themselves_and_the_fraction_for_others() {
        let traced = |fraction: f64, parent: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(parent) = parent {
                headers.insert(TRACEPARENT, parent.parse().unwrap());
            }
            Sampler::new(fraction).begin(&headers, "s", "m")
        };
        let child = traced(0.0, Some(PARENT)).unwrap().trace();
        assert_eq!(child.id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_ne!(child.span, 0xb7ad_6b71_6920_3331);
        assert!(traced(1.0, Some(&PARENT.replace("-01", "-00"))).is_none());
        assert!(traced(1.0, None).is_some() && traced(0.0, None).is_none());
    }
}
