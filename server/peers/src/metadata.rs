//! The introduction as it travels: `flotilla-peer-*` metadata, see
//! `proto/flotilla/peer/v1/peer.proto`. Names that aren't visible ASCII travel percent-encoded.

use flotilla_replica::peer::{Introduction, PROTOCOL, Refusal, ServerId};
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};

use crate::{Secret, refusals::Refused};

const CELL: HeaderName = HeaderName::from_static("flotilla-peer-cell");
const HISTORY: HeaderName = HeaderName::from_static("flotilla-peer-history");
const FROM: HeaderName = HeaderName::from_static("flotilla-peer-from");
const TO: HeaderName = HeaderName::from_static("flotilla-peer-to");
const PROTOCOL_NUMBER: HeaderName = HeaderName::from_static("flotilla-peer-protocol");
const SECRET: HeaderName = HeaderName::from_static("flotilla-peer-secret");

/// Bytes of a name, as it travels.
const MAX_NAME: usize = 512;
/// What can't travel as it is. Everything beyond ASCII is encoded anyway.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// The headers of a call; none if a name is too long for them.
pub(crate) fn write(introduction: &Introduction, secret: Option<&Secret>) -> Result<HeaderMap, Refused> {
    let mut headers = HeaderMap::new();
    headers.insert(CELL, value(&encoded(&introduction.cell))?);
    if !introduction.history.is_empty() {
        headers.insert(HISTORY, value(&encoded(&introduction.history))?);
    }
    headers.insert(FROM, value(&introduction.from.to_string())?);
    if let Some(to) = introduction.to {
        headers.insert(TO, value(&to.to_string())?);
    }
    headers.insert(PROTOCOL_NUMBER, introduction.protocol.into());
    if let Some(secret) = secret {
        let mut secret = value_of_secret(secret)?;
        secret.set_sensitive(true);
        headers.insert(SECRET, secret);
    }
    Ok(headers)
}

/// Who calls. The secret comes first, so that who doesn't have it learns nothing else; then the
/// protocol, because another one may have other metadata.
pub(crate) fn read(headers: &HeaderMap, secret: Option<&Secret>) -> Result<Introduction, Refused> {
    if let Some(secret) = secret {
        let Some(shown) = headers.get(SECRET) else {
            return Err(Refused::new(Refusal::Secret, "the caller shows no secret, and this cell has one"));
        };
        if !secret.is(shown.as_bytes()) {
            return Err(Refused::new(Refusal::Secret, "the caller shows another secret than this cell's"));
        }
    }
    let protocol: u32 = parsed(headers, &PROTOCOL_NUMBER)?.ok_or_else(|| missing(&PROTOCOL_NUMBER))?;
    if protocol != PROTOCOL {
        let message = format!("the caller speaks protocol {protocol}, and this server {PROTOCOL}");
        return Err(Refused::new(Refusal::Protocol, message));
    }
    let cell = name(headers, &CELL)?.filter(|cell| !cell.is_empty()).ok_or_else(|| missing(&CELL))?;
    let history = name(headers, &HISTORY)?.unwrap_or_default();
    let from: ServerId = parsed(headers, &FROM)?.ok_or_else(|| missing(&FROM))?;
    let to = parsed(headers, &TO)?;
    Ok(Introduction { cell, history, from, to, protocol })
}

fn encoded(name: &str) -> String {
    utf8_percent_encode(name, ENCODED).to_string()
}

fn value(text: &str) -> Result<HeaderValue, Refused> {
    let short = Some(text).filter(|text| text.len() <= MAX_NAME);
    short.and_then(|text| HeaderValue::from_str(text).ok()).ok_or_else(|| {
        Refused::new(Refusal::Malformed, format!("a name takes more than {MAX_NAME} bytes of metadata: shorten it"))
    })
}

fn value_of_secret(secret: &Secret) -> Result<HeaderValue, Refused> {
    HeaderValue::from_str(secret.reveal())
        .map_err(|_| Refused::new(Refusal::Malformed, "the secret can't travel in a header"))
}

fn name(headers: &HeaderMap, key: &HeaderName) -> Result<Option<String>, Refused> {
    let Some(value) = headers.get(key) else { return Ok(None) };
    if value.len() > MAX_NAME {
        return Err(unreadable(key));
    }
    let name = percent_decode(value.as_bytes()).decode_utf8().map_err(|_| unreadable(key))?;
    Ok(Some(name.into_owned()))
}

fn parsed<T: std::str::FromStr>(headers: &HeaderMap, key: &HeaderName) -> Result<Option<T>, Refused> {
    let Some(value) = headers.get(key) else { return Ok(None) };
    let text = value.to_str().map_err(|_| unreadable(key))?;
    text.parse().map(Some).map_err(|_| unreadable(key))
}

fn missing(key: &HeaderName) -> Refused {
    Refused::new(Refusal::Malformed, format!("the metadata `{key}` is missing"))
}

fn unreadable(key: &HeaderName) -> Refused {
    Refused::new(Refusal::Malformed, format!("the metadata `{key}` can't be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_introduction_returns_whole_whatever_the_names() {
        let introduction = Introduction {
            cell: "Flottille %20 Ä\n".into(),
            history: String::new(),
            from: ServerId { server: 1, incarnation: 2 },
            to: Some(ServerId { server: u64::MAX, incarnation: u64::MAX }),
            protocol: PROTOCOL,
        };
        let headers = write(&introduction, None).expect("headers");
        assert_eq!(read(&headers, None).expect("an introduction"), introduction);
    }
}
