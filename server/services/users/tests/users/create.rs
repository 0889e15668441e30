//! Creating users, and reading them.

use flotilla_proto::users::v1::{GetUserRequest, User};
use tonic::{Code, Request};

use crate::server::{Server, create, details, fields, reason, unique, with_email};

#[tokio::test]
async fn a_new_user_is_answered_as_it_is_read_afterwards() {
    let server = Server::start().await;
    let asked = User {
        id: "ignored".into(),
        etag: "ignored".into(),
        email: "Ada@Example.org".into(),
        first_name: "Ada".into(),
        last_name: "Lovelace".into(),
        labels: [("team".to_owned(), "engine".to_owned())].into(),
        ..User::default()
    };
    let response = server.client().create_user(create(&asked, &unique())).await.expect("a new user");
    assert!(response.metadata().get("flotilla-revision").is_some());
    assert_eq!(response.metadata().get("flotilla-server").map(|id| id.as_bytes()), Some(&b"1"[..]));
    let user = response.into_inner();
    assert_eq!((user.email.as_str(), user.display_name.as_str()), ("Ada@Example.org", "Ada Lovelace"));
    assert_eq!(user.labels, asked.labels);
    assert_eq!(user.create_time, user.update_time);
    assert!(user.create_time.is_some() && !user.etag.is_empty() && user.id.len() == 26);

    let read = server.client().get_user(GetUserRequest { id: user.id.clone() }).await.expect("the user");
    assert_eq!(read.into_inner(), user);
}

#[tokio::test]
async fn an_address_can_be_had_once_whatever_its_case() {
    let server = Server::start().await;
    server.client().create_user(create(&with_email("ada@example.org"), &unique())).await.expect("a new user");
    let taken = server.client().create_user(create(&with_email("ADA@example.ORG"), &unique())).await;
    let taken = taken.expect_err("the address is taken");
    assert_eq!(taken.code(), Code::AlreadyExists);
    let (reason, details) = details(&taken);
    assert_eq!(reason, "EMAIL_TAKEN");
    let metadata = &details.error_info().expect("an ErrorInfo").metadata;
    assert_eq!(metadata.len(), 1, "nothing but the field is told: {metadata:?}");
    assert_eq!(metadata["field"], "user.email");
}

#[tokio::test]
async fn a_retry_gets_the_user_that_the_first_time_made() {
    let server = Server::start().await;
    let request = create(&with_email("ada@example.org"), "the-one");
    let first = server.client().create_user(request.clone()).await.expect("a new user").into_inner();
    let retry = server.client().create_user(request).await.expect("the first answer").into_inner();
    assert_eq!(retry, first);
}

#[tokio::test]
async fn a_request_id_belongs_to_one_body_of_one_caller() {
    let server = Server::start().await;
    server.client().create_user(create(&with_email("ada@example.org"), "1")).await.expect("a new user");
    let other = server.client().create_user(create(&with_email("eve@example.org"), "1")).await;
    let other = other.expect_err("another body");
    assert_eq!((other.code(), reason(&other)), (Code::InvalidArgument, "REQUEST_ID_REUSED".into()));

    let mut request = Request::new(create(&with_email("eve@example.org"), "1"));
    request.metadata_mut().insert("flotilla-user", "eve".parse().expect("metadata"));
    server.client().create_user(request).await.expect("another caller's id");
}

#[tokio::test]
async fn what_is_wrong_with_a_new_user_is_told_by_field() {
    let server = Server::start().await;
    let user = User {
        email: "not an address".into(),
        first_name: "A\nda".into(),
        labels: [("Team".to_owned(), String::new())].into(),
        ..User::default()
    };
    let refused = server.client().create_user(create(&user, &unique())).await.expect_err("a bad user");
    assert_eq!(refused.code(), Code::InvalidArgument);
    // The name that would be made of a bad one is as bad.
    assert_eq!(fields(&refused), ["user.email", "user.first_name", "user.display_name", "user.labels[\"Team\"]"]);

    let refused = server.client().create_user(create(&with_email("a@b"), "tab\t")).await.expect_err("a bad request id");
    assert_eq!(fields(&refused), ["request_id"]);
    assert_eq!(server.replica.status().revision, 0, "nothing was written");
}

#[tokio::test]
async fn an_unknown_user_and_a_bad_id_are_told_apart() {
    let server = Server::start().await;
    let id = unique();
    let missing = server.client().get_user(GetUserRequest { id: id.clone() }).await.expect_err("no such user");
    let (reason, details) = details(&missing);
    assert_eq!((missing.code(), reason.as_str()), (Code::NotFound, "USER_NOT_FOUND"));
    assert_eq!(details.error_info().expect("an ErrorInfo").metadata["user_id"], id);
    assert_eq!(details.resource_info().expect("a ResourceInfo").resource_name, id);

    let bad = server.client().get_user(GetUserRequest { id: "ada".into() }).await.expect_err("a bad id");
    assert_eq!((bad.code(), fields(&bad)), (Code::InvalidArgument, vec!["id".to_owned()]));
}

#[tokio::test]
async fn an_expired_request_is_not_executed() {
    let server = Server::start().await;
    let mut request = Request::new(create(&with_email("ada@example.org"), &unique()));
    request.metadata_mut().insert("grpc-timeout", "0n".parse().expect("metadata"));
    let expired = server.client().create_user(request).await.expect_err("no time");
    // tonic's own timer may be the first to notice, and says it in its way.
    assert!([Code::DeadlineExceeded, Code::Cancelled].contains(&expired.code()), "{expired:?}");
    assert_eq!(server.replica.status().revision, 0, "nothing was written");
}
