//! PutRecord: the shortest way from a document to the log. The document is
//! encoded once, for its row; that encoding is also what tells a retry from
//! another request with its id.

use flotilla_kit::{Call, Context, Error, Intent, Violations, request::Fingerprint};
use flotilla_proto::records::v1::{PutRecordRequest, Record, operation::Put};

use crate::{
    row,
    rules::Place,
    write::{self, Write},
};

pub(crate) async fn put(context: &Context, call: &Call, request: PutRecordRequest) -> Result<(u64, Record), Error> {
    let PutRecordRequest { table, id, document, etag, create_only, request_id } = request;
    let condition = Fingerprint::of(etag.as_bytes()).and(&[create_only.into()]);
    let mut violations = Violations::default();
    let put = Put { table, id, document, etag, create_only };
    let (write, document) = Write::put(&mut violations, Place::Request, put)?;
    violations.finish()?;
    let body = condition.and(write.table.as_bytes()).and(write.id.as_bytes()).and(write.value());
    let intent = Intent::new(call, request_id, body)?;

    let committed = write::commit(context, call, &intent, std::slice::from_ref(&write)).await?;
    // A retry's answer is made in the same way: what isn't in the request is
    // known of the transaction.
    Ok((committed.revision, row::written(write.table, write.id, document, &committed)))
}
