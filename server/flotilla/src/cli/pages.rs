//! Lists, a page at a time.

use std::future::Future;

use tonic::metadata::MetadataMap;

use super::{Failure, output::List, row::Row};
use crate::client::{Client, json::Named};

/// The pages of one list.
pub(super) trait Pager {
    /// What is listed.
    type Item;

    /// The next page; none after the last. A page that failed can be asked for again.
    fn next(
        &mut self,
        client: &Client,
        wanted: usize,
    ) -> impl Future<Output = Result<Option<Page<Self::Item>>, Failure>>;
}

/// A page of a list.
pub(super) struct Page<T> {
    /// What is listed.
    pub(super) items: Vec<T>,
    /// Every change up to here is in it; 0 if the server doesn't say.
    pub(super) revision: u64,
}

/// Prints a list, or its first so many items.
pub(super) async fn print<P: Pager<Item: Named + Row>>(
    client: &Client,
    mut pages: P,
    mut list: List<'_>,
    limit: Option<usize>,
) -> Result<(), Failure> {
    let mut left = limit.unwrap_or(usize::MAX);
    while left > 0 {
        let Some(page) = pages.next(client, left).await? else { break };
        let items = page.items.get(..left).unwrap_or(&page.items);
        list.page(items)?;
        left -= items.len();
    }
    list.end()
}

/// The `page_size` to ask for when so many are wanted: at most 1,000, which is the most there is.
pub(super) fn size(wanted: usize) -> i32 {
    i32::try_from(wanted.clamp(1, 1000)).unwrap_or(1000)
}

/// The revision that an answer shows; 0 if it doesn't say.
pub(super) fn revision(metadata: &MetadataMap) -> u64 {
    let text = metadata.get("flotilla-revision").and_then(|value| value.to_str().ok());
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}
