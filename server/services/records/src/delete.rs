//! DeleteRecord.

use flotilla_kit::{Call, Context, Error, Intent, Violations};
use flotilla_proto::records::v1::{DeleteRecordRequest, operation::Delete};

use crate::{
    rules::Place,
    write::{self, Write},
};

pub(crate) async fn delete(context: &Context, call: &Call, mut request: DeleteRecordRequest) -> Result<u64, Error> {
    let request_id = std::mem::take(&mut request.request_id);
    let intent = Intent::of(call, request_id, &request)?;
    let DeleteRecordRequest { table, id, etag, allow_missing, .. } = request;
    let mut violations = Violations::default();
    let write = Write::delete(&mut violations, Place::Request, Delete { table, id, etag, allow_missing });
    violations.finish()?;
    let committed = write::commit(context, call, &intent, &[write]).await?;
    Ok(committed.revision)
}
