//! Pages of a list: sizes, and tokens that say where the next page begins.
//!
//! A token holds the key of the last row that was looked at, so rows written
//! in between neither shift nor invalidate it. It is bound to the method, to
//! the filters and to the history, and carries a checksum against mutilation.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::{
    Error,
    fields::{FieldViolation, Violations},
};

/// Items of a page if the request doesn't say.
const DEFAULT_SIZE: usize = 100;
/// Items of a page at most.
pub const MAX_SIZE: usize = 1_000;

/// The version of the layout: version (1 byte), hash of the query (8), hash of
/// the history (8), key, hash of all these (4); integers are big-endian.
const VERSION: u8 = 1;
const HEADER: usize = 17;
const CHECKSUM: usize = 4;

/// Which part of a list is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    size: usize,
    after: Option<Bytes>,
    query: u64,
    history: u64,
}

impl Page {
    /// Understands the fields `page_size` and `page_token` of a request. The
    /// filters are everything that must be the same from page to page.
    ///
    /// # Errors
    /// If the size is negative, or the token is none, or one of another query
    /// or history.
    pub fn new(history: &str, method: &str, filters: &[&str], size: i32, token: &str) -> Result<Self, Error> {
        let (query, history_hash) = (hash(method, filters), xxh3_64(history.as_bytes()));
        let mut violations = Violations::default();
        let size = match usize::try_from(size) {
            Ok(0) => DEFAULT_SIZE,
            Ok(size) => size.min(MAX_SIZE),
            Err(_) => {
                violations.check(Err(FieldViolation::new("page_size", format!("is {size}; it can't be negative"))))
            }
        };
        let token = violations.check(Token::parse(token));
        violations.finish()?;
        let after = match token {
            None => None,
            Some(token) if token.query != query => return Err(Error::PageTokenMismatch),
            Some(token) if token.history != history_hash => {
                return Err(Error::HistoryChanged { ours: history.to_owned() });
            }
            Some(token) => Some(token.after),
        };
        Ok(Self { size, after, query, history: history_hash })
    }

    /// How many items are wanted at most, at least 1.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The key that the page before ended with; none for the first page.
    pub fn after(&self) -> Option<&Bytes> {
        self.after.as_ref()
    }

    /// The token of the page after this one, which ended with a key.
    pub fn next_token(&self, last: &[u8]) -> String {
        let mut bytes = Vec::with_capacity(HEADER + last.len() + CHECKSUM);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.query.to_be_bytes());
        bytes.extend_from_slice(&self.history.to_be_bytes());
        bytes.extend_from_slice(last);
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }
}

struct Token {
    query: u64,
    history: u64,
    after: Bytes,
}

impl Token {
    fn parse(token: &str) -> Result<Option<Self>, FieldViolation> {
        if token.is_empty() {
            return Ok(None);
        }
        let parsed = BASE64_URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| Self::decode(&bytes));
        let violation = || FieldViolation::new("page_token", "is no page token: give back exactly what a page carried");
        parsed.map(Some).ok_or_else(violation)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (content, sum) = bytes.split_last_chunk::<CHECKSUM>()?;
        if checksum(content) != *sum {
            return None;
        }
        let (&VERSION, rest) = content.split_first()? else { return None };
        let (query, rest) = rest.split_first_chunk::<8>()?;
        let (history, after) = rest.split_first_chunk::<8>()?;
        Some(Self {
            query: u64::from_be_bytes(*query),
            history: u64::from_be_bytes(*history),
            after: Bytes::copy_from_slice(after),
        })
    }
}

fn checksum(content: &[u8]) -> [u8; CHECKSUM] {
    (xxh3_64(content) as u32).to_be_bytes()
}

fn hash(method: &str, filters: &[&str]) -> u64 {
    let mut hasher = Xxh3::new();
    for part in [method].iter().chain(filters) {
        // The lengths keep ("ab", "c") and ("a", "bc") apart.
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(method: &str, filters: &[&str], token: &str) -> Result<Page, Error> {
        Page::new("history", method, filters, 10, token)
    }

    fn refused_field(refused: Result<Page, Error>) -> String {
        match refused {
            Err(Error::InvalidFields(violations)) => violations[0].field.clone(),
            other => panic!("expected a violation, got {other:?}"),
        }
    }

    #[test]
    fn a_size_has_a_default_and_a_bound() {
        let size = |size| Page::new("history", "List", &[], size, "").map(|page| page.size());
        assert_eq!(size(0).expect("a page"), 100);
        assert_eq!(size(7).expect("a page"), 7);
        assert_eq!(size(i32::MAX).expect("a page"), 1_000);
        assert_eq!(refused_field(Page::new("history", "List", &[], -1, "")), "page_size");
    }

    #[test]
    fn a_token_says_where_the_next_page_begins() {
        let first = page("List", &["boats"], "").expect("a page");
        assert_eq!(first.after(), None);
        let token = first.next_token(b"skiff\0\xff");
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{token}");
        let second = page("List", &["boats"], &token).expect("a page");
        assert_eq!(second.after().map(|after| &after[..]), Some(&b"skiff\0\xff"[..]));
    }

    #[test]
    fn a_token_of_another_query_is_refused_as_that() {
        let token = page("List", &["ab", "c"], "").expect("a page").next_token(b"x");
        for other in
            [page("List", &["a", "bc"], &token), page("List", &["ab"], &token), page("Search", &["ab", "c"], &token)]
        {
            assert!(matches!(other, Err(Error::PageTokenMismatch)), "{other:?}");
        }
        let size_differs = Page::new("history", "List", &["ab", "c"], 3, &token);
        assert!(size_differs.is_ok());
    }

    #[test]
    fn a_token_of_another_history_is_refused_as_that() {
        let token = page("List", &[], "").expect("a page").next_token(b"x");
        let other = Page::new("restored", "List", &[], 10, &token);
        assert!(matches!(&other, Err(Error::HistoryChanged { ours }) if ours == "restored"), "{other:?}");
    }

    #[test]
    fn garbage_and_mutilated_tokens_are_refused_by_field() {
        let token = page("List", &[], "").expect("a page").next_token(b"skiff");
        let cut = &token[..token.len() - 1];
        let other_version = BASE64_URL_SAFE_NO_PAD.encode([2; 40]);
        for garbage in ["x", "not base64!", cut, &token.to_uppercase(), &format!("{token}A"), &other_version] {
            assert_eq!(refused_field(page("List", &[], garbage)), "page_token", "{garbage}");
        }
    }

    #[test]
    fn all_that_is_wrong_with_a_page_is_told_at_once() {
        let refused = Page::new("history", "List", &[], -5, "?");
        assert!(matches!(&refused, Err(Error::InvalidFields(violations)) if violations.len() == 2), "{refused:?}");
    }
}
