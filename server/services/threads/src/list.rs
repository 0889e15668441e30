//! ListThreads: the caller's.

use flotilla_kit::{Call, Context, Error};
use flotilla_proto::threads::v1::{ListThreadsRequest, ListThreadsResponse};

use crate::{
    get, rules,
    tables::{MEMBERSHIPS, split_ids},
};

pub(crate) async fn list(
    context: &Context,
    call: &Call,
    request: ListThreadsRequest,
) -> Result<(u64, ListThreadsResponse), Error> {
    let caller = rules::caller(call)?;
    let page = context.page(call, &[caller], request.page_size, &request.page_token)?;
    let view = context.read(call).await?;
    let items = view.page(MEMBERSHIPS, caller.as_bytes(), &page, |key, _| get::find(&view, split_ids(key)?.1))?;
    let response = ListThreadsResponse { threads: items.items, next_page_token: items.next_page_token };
    Ok((view.revision(), response))
}
