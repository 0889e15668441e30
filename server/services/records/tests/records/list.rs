//! Listing records and tables.

use flotilla_proto::records::v1::{DeleteRecordRequest, ListRecordsRequest, ListTablesRequest, PutRecordRequest};
use prost_types::value::Kind;
use tonic::Code;

use crate::server::{Server, fields, put, reason, unique, with};

fn request(table: &str, id_prefix: &str) -> ListRecordsRequest {
    ListRecordsRequest { table: table.into(), id_prefix: id_prefix.into(), ..ListRecordsRequest::default() }
}

async fn ids(server: &Server, request: ListRecordsRequest) -> Vec<String> {
    let page = server.client().list_records(request).await.expect("a page").into_inner();
    page.records.into_iter().map(|record| record.id).collect()
}

async fn tables(server: &Server, page_size: i32) -> Vec<String> {
    let mut request = ListTablesRequest { page_size, page_token: String::new() };
    let mut names = Vec::new();
    loop {
        let page = server.client().list_tables(request.clone()).await.expect("a page").into_inner();
        names.extend(page.tables.into_iter().map(|table| table.name));
        if page.next_page_token.is_empty() {
            return names;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn a_table_lists_its_own_records_by_the_bytes_of_their_ids() {
    let server = Server::start().await;
    for (table, id) in [("abc", "b"), ("abc", "B"), ("abc", "ä"), ("abcd", "x"), ("ab", "y")] {
        server.put(table, id, 0.0).await;
    }
    assert_eq!(ids(&server, request("abc", "")).await, ["B", "b", "ä"]);
    assert_eq!(ids(&server, request("abc", "b")).await, ["b"]);
    assert_eq!(ids(&server, request("nothing", "")).await, [""; 0]);
}

#[tokio::test]
async fn a_page_of_large_records_ends_early_and_the_list_is_complete() {
    let server = Server::start().await;
    for number in 0..5 {
        let document = Some(with("text", Kind::StringValue("x".repeat(600_000))));
        let request = PutRecordRequest { document, ..put("boats", &number.to_string(), 0.0) };
        server.client().put_record(request).await.expect("a put");
    }
    let mut list = request("boats", "");
    let mut sizes = Vec::new();
    loop {
        let page = server.client().list_records(list.clone()).await.expect("a page").into_inner();
        sizes.push(page.records.len());
        if page.next_page_token.is_empty() {
            break;
        }
        list.page_token = page.next_page_token;
    }
    assert_eq!(sizes, [2, 2, 1]);
}

#[tokio::test]
async fn a_page_token_belongs_to_one_table_and_prefix() {
    let server = Server::start().await;
    for id in ["a1", "a2"] {
        server.put("boats", id, 0.0).await;
    }
    let first = ListRecordsRequest { page_size: 1, ..request("boats", "a") };
    let page_token = server.client().list_records(first).await.expect("a page").into_inner().next_page_token;
    for other in [request("cars", "a"), request("boats", "")] {
        let other = ListRecordsRequest { page_token: page_token.clone(), ..other };
        let refused = server.client().list_records(other).await.expect_err("another query");
        assert_eq!((refused.code(), reason(&refused)), (Code::InvalidArgument, "PAGE_TOKEN_MISMATCH".into()));
    }
    let tables = ListTablesRequest { page_token, ..ListTablesRequest::default() };
    assert_eq!(reason(&server.client().list_tables(tables).await.expect_err("another method")), "PAGE_TOKEN_MISMATCH");
}

#[tokio::test]
async fn bad_fields_of_a_list_are_told() {
    let server = Server::start().await;
    let refused = server.client().list_records(request("..", "a/")).await.expect_err("bad");
    assert_eq!(fields(&refused), ["table", "id_prefix"]);
    let bad = ListRecordsRequest { page_token: "garbage".into(), page_size: -3, ..request("boats", "") };
    assert_eq!(fields(&server.client().list_records(bad).await.expect_err("bad")), ["page_size", "page_token"]);
}

#[tokio::test]
async fn tables_are_listed_by_the_bytes_of_their_names_on_pages_of_any_size() {
    let server = Server::start().await;
    let long = "z".repeat(128);
    let mut names = ["b", "a", "abc", "ab", "B", "a.b", "a-", "abcd", "zz", &long, "0"];
    for name in names {
        server.put(name, "x", 0.0).await;
    }
    names.sort_unstable();
    for page_size in [1, 2, 3, 100] {
        assert_eq!(tables(&server, page_size).await, names, "in pages of {page_size}");
    }
}

#[tokio::test]
async fn a_table_without_records_is_not_listed() {
    let server = Server::start().await;
    server.put("boats", "skiff", 0.0).await;
    let request = DeleteRecordRequest {
        table: "boats".into(),
        id: "skiff".into(),
        request_id: unique(),
        ..DeleteRecordRequest::default()
    };
    server.client().delete_record(request).await.expect("a deletion");
    assert_eq!(tables(&server, 0).await, [""; 0]);
}
