//! Listing users by their indexes.

use flotilla_proto::users::v1::{ListUsersRequest, User};
use tonic::Code;

use crate::server::{Server, create, fields, reason, unique};

async fn emails(server: &Server, request: ListUsersRequest) -> Vec<String> {
    let page = server.client().list_users(request).await.expect("a page").into_inner();
    page.users.into_iter().map(|user| user.email).collect()
}

fn prefix(prefix: &str) -> ListUsersRequest {
    ListUsersRequest { name_prefix: prefix.into(), ..ListUsersRequest::default() }
}

#[tokio::test]
async fn a_user_who_matches_by_several_names_is_listed_once_at_the_first() {
    let server = Server::start().await;
    for (email, first, last) in [("1@x", "zoe", "adams"), ("2@x", "Ada", "adamson"), ("3@x", "bob", "builder")] {
        let user = User { email: email.into(), first_name: first.into(), last_name: last.into(), ..User::default() };
        server.client().create_user(create(&user, &unique())).await.expect("a new user");
    }
    assert_eq!(emails(&server, prefix("AD")).await, ["2@x", "1@x"]);
    assert_eq!(emails(&server, prefix("adamso")).await, ["2@x"]);
    assert_eq!(emails(&server, prefix("b")).await, ["3@x"]);
    assert_eq!(emails(&server, prefix("c")).await, [""; 0]);
}

#[tokio::test]
async fn filters_must_all_match() {
    let server = Server::start().await;
    let ada = server.created("ada", "byron").await;
    let both = |name_prefix: &str| ListUsersRequest { email: ada.email.clone(), ..prefix(name_prefix) };
    assert_eq!(emails(&server, both("byr")).await, [ada.email.as_str()]);
    assert_eq!(emails(&server, both("lov")).await, [""; 0]);
}

#[tokio::test]
async fn a_page_token_of_other_filters_is_refused_as_that() {
    let server = Server::start().await;
    for last in ["a", "b"] {
        server.created("ada", last).await;
    }
    let first = ListUsersRequest { page_size: 1, ..prefix("ada") };
    let page_token = server.client().list_users(first.clone()).await.expect("a page").into_inner().next_page_token;
    let other = ListUsersRequest { page_token: page_token.clone(), ..prefix("ad") };
    let refused = server.client().list_users(other).await.expect_err("another query");
    assert_eq!((refused.code(), reason(&refused)), (Code::InvalidArgument, "PAGE_TOKEN_MISMATCH".into()));
    let same = ListUsersRequest { page_token, ..prefix("ADA") };
    assert_eq!(emails(&server, same).await.len(), 1, "filters differ in case only, and that is no difference");
}

#[tokio::test]
async fn bad_fields_of_a_list_are_told() {
    let server = Server::start().await;
    let bad = ListUsersRequest { email: "ada".into(), ..prefix("a\0") };
    let refused = server.client().list_users(bad).await.expect_err("bad filters");
    assert_eq!(fields(&refused), ["email", "name_prefix"]);
    let bad = ListUsersRequest { page_size: -1, page_token: "garbage".into(), ..ListUsersRequest::default() };
    let refused = server.client().list_users(bad).await.expect_err("a bad page");
    assert_eq!(fields(&refused), ["page_size", "page_token"]);
}

#[tokio::test]
async fn a_page_of_large_users_ends_early_and_the_list_is_complete() {
    let server = Server::start().await;
    let labels = (0..64).map(|number| (format!("k{number}"), "x".repeat(256))).collect();
    let large = User { labels, ..User::default() };
    for number in 0..80 {
        let user = User { email: format!("{number}@x"), ..large.clone() };
        server.client().create_user(create(&user, &unique())).await.expect("a new user");
    }
    let mut request = ListUsersRequest { page_size: 1_000, ..ListUsersRequest::default() };
    let (mut pages, mut users) = (0, 0);
    loop {
        let page = server.client().list_users(request.clone()).await.expect("a page").into_inner();
        (pages, users) = (pages + 1, users + page.users.len());
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!((pages, users), (2, 80), "80 users of 17 kB are more than 1 MiB");
}
