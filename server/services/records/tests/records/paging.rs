//! Paging against a model, with writes between the pages.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::records::v1::{DeleteRecordRequest, ListRecordsRequest};
use proptest::prelude::*;

use crate::server::{Server, unique};

/// Put a record, or delete it.
type Write = (String, Option<u32>);

fn write() -> impl Strategy<Value = Write> {
    ("[abé]{1,3}", prop_oneof![3 => any::<u32>().prop_map(Some), 1 => Just(None)])
}

async fn apply(server: &Server, model: &mut BTreeMap<String, u32>, (id, number): &Write) {
    match number {
        Some(number) => {
            server.put("boats", id, f64::from(*number)).await;
            model.insert(id.clone(), *number);
        }
        None => {
            let request = DeleteRecordRequest {
                table: "boats".into(),
                id: id.clone(),
                allow_missing: true,
                request_id: unique(),
                ..DeleteRecordRequest::default()
            };
            server.client().delete_record(request).await.expect("a deletion");
            model.remove(id);
        }
    }
}

async fn check(before: Vec<Write>, between: Vec<Write>, prefix: &str, page_size: i32) {
    let server = Server::start().await;
    let mut model = BTreeMap::new();
    for write in &before {
        apply(&server, &mut model, write).await;
    }
    let at_start = model.clone();
    let mut touched = BTreeSet::new();
    let mut between = between.iter();
    let mut listed: Vec<String> = Vec::new();
    let mut request = ListRecordsRequest {
        table: "boats".into(),
        page_size,
        id_prefix: prefix.into(),
        ..ListRecordsRequest::default()
    };
    loop {
        let page = server.client().list_records(request.clone()).await.expect("a page").into_inner();
        assert!(page.records.len() <= page_size as usize);
        listed.extend(page.records.into_iter().map(|record| record.id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
        if let Some(write) = between.next() {
            touched.insert(write.0.clone());
            apply(&server, &mut model, write).await;
        }
    }
    assert!(listed.is_sorted_by(|one, next| one < next), "each once, in order: {listed:?}");
    // Records that were there all the time, whatever was written into them.
    let stayed = at_start.keys().filter(|id| id.starts_with(prefix) && !touched.contains(*id));
    for id in stayed {
        assert!(listed.contains(id), "{id} is missing in {listed:?}");
    }
    for id in &listed {
        assert!(id.starts_with(prefix) && (at_start.contains_key(id) || touched.contains(id)), "{id} never was");
    }
    server.replica.shutdown().await.expect("a clean end");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn records_that_stay_are_listed_once_and_in_order_whatever_is_written_between_pages(
        before in prop::collection::vec(write(), 0..32),
        between in prop::collection::vec(write(), 0..12),
        prefix in "[abé]{0,1}",
        page_size in 1..6,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(check(before, between, &prefix, page_size));
    }
}
