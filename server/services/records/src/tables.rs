//! ListTables.
//!
//! The store's keys put short names before long ones, and clients want names
//! in their own order. So each length is a list in the right order, and the
//! lists are merged: a seek for each length, then one for each table listed.

use std::{cmp::Reverse, collections::BinaryHeap};

use flotilla_kit::{Call, Context, Error, View};
use flotilla_proto::records::v1::{ListTablesRequest, ListTablesResponse, Table};

use crate::rules::MAX_TABLE;

pub(crate) async fn list(
    context: &Context,
    call: &Call,
    request: ListTablesRequest,
) -> Result<(u64, ListTablesResponse), Error> {
    let page = context.page(call, &[], request.page_size, &request.page_token)?;
    let view = context.read(call).await?;
    let after = page.after().map(|after| std::str::from_utf8(after).map_err(Error::internal)).transpose()?;
    let mut names = first(&view, after.unwrap_or_default(), page.size() + 1)?;
    let more = names.len() > page.size();
    names.truncate(page.size());
    let next_page_token = match names.last() {
        Some(last) if more => page.next_token(last.as_bytes()),
        _ => String::new(),
    };
    let tables = names.into_iter().map(|name| Table { name }).collect();
    Ok((view.revision(), ListTablesResponse { tables, next_page_token }))
}

/// The first tables after a name, by the bytes of their names.
fn first(view: &View, after: &str, limit: usize) -> Result<Vec<String>, Error> {
    let mut next = BinaryHeap::new();
    for length in 1..=MAX_TABLE {
        next.extend(next_of_length(view, &bound(after, length))?.map(Reverse));
    }
    let mut names = Vec::new();
    while names.len() < limit
        && let Some(Reverse(name)) = next.pop()
    {
        next.extend(next_of_length(view, &name)?.map(Reverse));
        names.push(name);
    }
    Ok(names)
}

/// The next table whose name is as long as this one.
fn next_of_length(view: &View, name: &str) -> Result<Option<String>, Error> {
    let following = view.tables(Some(name), 1)?.pop();
    Ok(following.filter(|following| following.len() == name.len()))
}

/// The greatest string of a length, of those made of what names are made of
/// and zeros, that doesn't come after a name.
fn bound(after: &str, length: usize) -> String {
    let known = after.get(..length).unwrap_or(after);
    format!("{known:\0<length$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_keeps_what_comes_after_a_name_and_nothing_else() {
        for (after, length, bound) in [("", 2, "\0\0"), ("boat", 4, "boat"), ("boat", 2, "bo"), ("b", 3, "b\0\0")] {
            assert_eq!(super::bound(after, length), bound);
        }
        for (after, name) in [("boat", "boats"), ("boat", "c"), ("b", "b-"), ("boats", "bob")] {
            assert!(name > after && *name > *bound(after, name.len()), "{name} after {after}");
        }
        for (after, name) in [("boat", "boat"), ("boat", "bo"), ("boats", "boat"), ("c", "boat")] {
            assert!(name <= after && *name <= *bound(after, name.len()), "{name} not after {after}");
        }
    }
}
