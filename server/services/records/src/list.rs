//! ListRecords.

use flotilla_kit::{Call, Context, Error, Violations, view::Items};
use flotilla_proto::records::v1::{ListRecordsRequest, ListRecordsResponse};

use crate::{
    row,
    rules::{self, Place},
};

pub(crate) async fn list(
    context: &Context,
    call: &Call,
    request: ListRecordsRequest,
) -> Result<(u64, ListRecordsResponse), Error> {
    let ListRecordsRequest { table, page_size, page_token, id_prefix } = request;
    let mut violations = Violations::default();
    rules::check_table(&mut violations, Place::Request, &table);
    if let Err(problem) = rules::id_prefix(&id_prefix) {
        violations.add("id_prefix", problem);
    }
    violations.finish()?;
    let page = context.page(call, &[&table, &id_prefix], page_size, &page_token)?;
    let view = context.read(call).await?;
    let found =
        view.page(&table, id_prefix.as_bytes(), &page, |key, found| Ok(Some(row::decode(&table, key, &found)?)));
    let Items { items, next_page_token } = found?;
    Ok((view.revision(), ListRecordsResponse { records: items, next_page_token }))
}
