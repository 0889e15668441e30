//! The addresses that were given: one, or several with commas between them.

use std::{sync::Arc, time::Duration};

use tonic::transport::Endpoint;

use super::Link;
use crate::CallError;

/// How long connecting to the only server may take.
const CONNECT: Duration = Duration::from_secs(10);
/// The same where another server may do.
const CONNECT_ONE_OF_SEVERAL: Duration = Duration::from_secs(3);
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);
/// Between servers of a cell it pays to notice early: a call can go elsewhere.
const KEEPALIVE_ONE_OF_SEVERAL: Duration = Duration::from_secs(10);
const KEEPALIVE_ANSWER_ONE_OF_SEVERAL: Duration = Duration::from_secs(5);

/// The servers of a text like `http://a:7400,b:7400`.
pub(crate) fn parse(text: &str, timeout: Duration) -> Result<Vec<Arc<Link>>, CallError> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let several = parts.len() > 1;
    let mut links: Vec<Arc<Link>> = Vec::new();
    for part in parts {
        let endpoint = endpoint(part)?;
        let name = name(part);
        if links.iter().all(|link| *link.name() != *name) {
            let endpoint = if several { one_of_several(endpoint) } else { only(endpoint) };
            let connect = if several { CONNECT_ONE_OF_SEVERAL } else { CONNECT };
            links.push(Arc::new(Link::given(endpoint.connect_timeout(connect.min(timeout)), &name)));
        }
    }
    Ok(links)
}

/// A server of the cell's list; none if its address is no address.
pub(super) fn listed(address: &str) -> Option<(Endpoint, String)> {
    let endpoint = endpoint(address).ok()?;
    Some((one_of_several(endpoint).connect_timeout(CONNECT_ONE_OF_SEVERAL), name(address)))
}

fn only(endpoint: Endpoint) -> Endpoint {
    endpoint.http2_keep_alive_interval(KEEPALIVE).keep_alive_timeout(KEEPALIVE_ANSWER)
}

fn one_of_several(endpoint: Endpoint) -> Endpoint {
    endpoint.http2_keep_alive_interval(KEEPALIVE_ONE_OF_SEVERAL).keep_alive_timeout(KEEPALIVE_ANSWER_ONE_OF_SEVERAL)
}

/// How a server is called in errors, and recognised: `http://host:port`.
fn name(address: &str) -> String {
    let address = address.trim_end_matches('/');
    if address.contains("://") { address.to_owned() } else { format!("http://{address}") }
}

fn endpoint(address: &str) -> Result<Endpoint, CallError> {
    let unusable = |reason: &str| CallError::Endpoint { endpoint: address.to_owned(), reason: reason.to_owned() };
    let endpoint = match address.split_once("://") {
        Some(("http", _)) => Endpoint::from_shared(address.to_owned()),
        Some(("https", _)) => return Err(unusable("this version speaks no TLS: use http://")),
        Some(_) => return Err(unusable("only http:// is known")),
        None => Endpoint::from_shared(format!("http://{address}")),
    };
    let endpoint = endpoint.map_err(|_| unusable("it must look like http://127.0.0.1:7400"))?;
    Ok(endpoint.tcp_nodelay(true).keep_alive_while_idle(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Vec<String>, String> {
        let links = parse(text, Duration::from_secs(30)).map_err(|error| error.to_string())?;
        Ok(links.iter().map(|link| link.name().to_owned()).collect())
    }

    #[test]
    fn endpoints_come_with_commas_between_them_and_count_once() {
        assert_eq!(names("http://a:7400").unwrap(), ["http://a:7400"]);
        assert_eq!(names("http://a:7400, b:7400,a:7400/").unwrap(), ["http://a:7400", "http://b:7400"]);
    }

    #[test]
    fn the_bad_one_of_several_is_named() {
        let https = "the endpoint \"https://b:7400\" can't be used: this version speaks no TLS: use http://";
        assert_eq!(names("http://a:7400,https://b:7400").unwrap_err(), https);
        for (text, bad) in [("http://a:7400,", "\"\""), ("a:7400,b b", "\"b b\""), ("a:1,ftp://c", "\"ftp://c\"")] {
            let error = names(text).unwrap_err();
            assert!(error.contains(bad), "{error}");
        }
    }
}
