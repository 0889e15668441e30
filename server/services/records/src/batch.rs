//! BatchWrite: many writes in one transaction.

use std::collections::HashMap;

use flotilla_kit::{Call, Context, Error, Intent, Violations, etag, time};
use flotilla_proto::records::v1::{BatchWriteRequest, BatchWriteResponse, Operation, operation::Kind};

use crate::{
    rules::Place,
    write::{self, Write},
};

const MAX_OPERATIONS: usize = 1_000;

pub(crate) async fn write(
    context: &Context,
    call: &Call,
    mut request: BatchWriteRequest,
) -> Result<BatchWriteResponse, Error> {
    let actual = request.operations.len();
    if actual > MAX_OPERATIONS {
        let (max, actual) = (MAX_OPERATIONS as u64, actual as u64);
        return Err(Error::LimitExceeded { limit: "operations", max, actual });
    }
    let request_id = std::mem::take(&mut request.request_id);
    let intent = Intent::of(call, request_id, &request)?;
    let puts = request.operations.iter().any(|operation| matches!(operation.kind, Some(Kind::Put(_))));
    let writes = checked(request.operations)?;

    let committed = write::commit(context, call, &intent, &writes).await?;
    Ok(BatchWriteResponse {
        revision: committed.revision,
        etag: if puts { etag::of(committed.revision) } else { String::new() },
        time: Some(time::timestamp(committed.time)),
    })
}

fn checked(operations: Vec<Operation>) -> Result<Vec<Write>, Error> {
    let mut violations = Violations::default();
    if operations.is_empty() {
        violations.add("operations", "is empty; 1 to 1,000 are possible");
    }
    let mut writes = Vec::with_capacity(operations.len());
    for (index, operation) in operations.into_iter().enumerate() {
        match operation.kind {
            Some(Kind::Put(put)) => writes.push(Write::put(&mut violations, Place::Operation(index, "put"), put)?.0),
            Some(Kind::Delete(delete)) => {
                writes.push(Write::delete(&mut violations, Place::Operation(index, "delete"), delete));
            }
            None => violations.add(format!("operations[{index}]"), "says neither put nor delete"),
        }
    }
    violations.finish()?;
    refuse_two_on_one(&writes)?;
    Ok(writes)
}

/// Which of two writes of one record counts would be a guess.
fn refuse_two_on_one(writes: &[Write]) -> Result<(), Error> {
    let mut first = HashMap::with_capacity(writes.len());
    let mut violations = Violations::default();
    for (index, write) in writes.iter().enumerate() {
        if let Some(earlier) = first.insert((write.table.as_str(), write.id.as_str()), index) {
            violations.add(write.place().field("id"), format!("is that of operations[{earlier}] too; one must go"));
        }
    }
    violations.finish()
}
