//! ListMembers.

use flotilla_kit::{Call, Context, Error};
use flotilla_proto::threads::v1::{ListMembersRequest, ListMembersResponse};

use crate::{
    membership, row, rules,
    tables::{MEMBERS, split_ids},
};

pub(crate) async fn list(
    context: &Context,
    call: &Call,
    request: ListMembersRequest,
) -> Result<(u64, ListMembersResponse), Error> {
    let caller = rules::caller(call)?;
    let thread = request.thread_id.as_str();
    rules::thread_id("thread_id", thread)?;
    let page = context.page(call, &[thread], request.page_size, &request.page_token)?;
    let view = context.read(call).await?;
    membership::require(&view, thread, caller)?;
    let items = view.page(MEMBERS, thread.as_bytes(), &page, |key, found| {
        let (_, user, _) = split_ids(key)?;
        // Both rows are read at different moments: the member may have left.
        let join_sequence = membership::join_sequence(&view, thread, user)?;
        join_sequence.map(|sequence| row::decode_member(user, &found, sequence)).transpose()
    })?;
    let response = ListMembersResponse { members: items.items, next_page_token: items.next_page_token };
    Ok((view.revision(), response))
}
