//! Lists, a page at a time.

use std::{future::Future, time::Duration};

use flotilla_client::{CallError, Listing, Pages};

use super::{Failure, json::Named, output::List, row::Row, talk};

/// The pages of one list.
pub(super) trait Pager {
    /// What is listed.
    type Item;

    /// The next page; none after the last. A page that failed can be asked for again.
    fn next(&mut self, wanted: usize) -> impl Future<Output = Result<Option<Page<Self::Item>>, Failure>>;
}

/// A page of a list.
pub(super) struct Page<T> {
    /// What is listed.
    pub(super) items: Vec<T>,
    /// Every change up to here is in it; 0 if the server doesn't say.
    pub(super) revision: u64,
}

impl<L: Listing> Pager for Pages<L> {
    type Item = L::Item;

    async fn next(&mut self, wanted: usize) -> Result<Option<Page<L::Item>>, Failure> {
        let page = Pages::next(self, wanted).await?;
        Ok(page.map(|page| Page { items: page.items, revision: page.revision }))
    }
}

/// The next page, as soon as the server can be reached.
pub(super) async fn patiently<P: Pager>(pages: &mut P) -> Result<Option<Page<P::Item>>, Failure> {
    loop {
        match pages.next(usize::MAX).await {
            Err(Failure::Call(error @ (CallError::Unreachable { .. } | CallError::TimedOut { .. }))) => {
                talk::warning(&format!("listing goes on when it can: {error}"));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            page => return page,
        }
    }
}

/// Prints a list, or its first so many items.
pub(super) async fn print<P: Pager<Item: Named + Row>>(
    mut pages: P,
    mut list: List<'_>,
    limit: Option<usize>,
) -> Result<(), Failure> {
    let mut left = limit.unwrap_or(usize::MAX);
    while left > 0 {
        let Some(page) = pages.next(left).await? else { break };
        let items = page.items.get(..left).unwrap_or(&page.items);
        list.page(items)?;
        left -= items.len();
    }
    list.end()
}
