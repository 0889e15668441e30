//! GetRecord.

use flotilla_kit::{Call, Context, Error, Violations};
use flotilla_proto::records::v1::{GetRecordRequest, Record};

use crate::{
    row,
    rules::{self, Place},
    write,
};

pub(crate) async fn get(context: &Context, call: &Call, request: GetRecordRequest) -> Result<(u64, Record), Error> {
    let GetRecordRequest { table, id } = request;
    let mut violations = Violations::default();
    rules::check_name(&mut violations, Place::Request, &table, &id);
    violations.finish()?;
    let view = context.read(call).await?;
    match view.get(&table, id.as_bytes())? {
        Some(found) => Ok((view.revision(), row::decode(&table, id.as_bytes(), &found)?)),
        None => Err(write::not_found(&table, &id).into()),
    }
}
