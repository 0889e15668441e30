//! Updating and deleting users.

use flotilla_proto::users::v1::{DeleteUserRequest, GetUserRequest, ListUsersRequest, UpdateUserRequest, User};
use prost_types::FieldMask;
use tonic::Code;

use crate::server::{Server, create, details, fields, reason, unique, with_email};

fn update(user: &User, paths: &[&str]) -> UpdateUserRequest {
    let update_mask = (!paths.is_empty()).then(|| FieldMask { paths: paths.iter().map(ToString::to_string).collect() });
    UpdateUserRequest { user: Some(user.clone()), update_mask, request_id: unique() }
}

fn delete(user: &User, etag: &str) -> DeleteUserRequest {
    DeleteUserRequest { id: user.id.clone(), etag: etag.into(), request_id: unique(), ..DeleteUserRequest::default() }
}

#[tokio::test]
async fn an_update_sets_the_fields_of_its_mask_and_no_other() {
    let server = Server::start().await;
    let ada = server.created("ada", "byron").await;
    let wanted =
        User { id: ada.id.clone(), last_name: "lovelace".into(), first_name: "ignored".into(), ..User::default() };
    let updated = server.client().update_user(update(&wanted, &["last_name", "display_name"])).await;
    let updated = updated.expect("an update").into_inner();
    assert_eq!((updated.first_name.as_str(), updated.last_name.as_str()), ("ada", "lovelace"));
    assert_eq!(updated.display_name, "", "named in the mask and empty: cleared");
    assert_eq!((updated.email.as_str(), updated.create_time), (ada.email.as_str(), ada.create_time));
    assert_ne!(updated.etag, ada.etag);
    let read = server.client().get_user(GetUserRequest { id: ada.id }).await.expect("the user").into_inner();
    assert_eq!(read, updated);
}

#[tokio::test]
async fn an_update_without_a_mask_sets_what_is_populated() {
    let server = Server::start().await;
    let ada = server.created("ada", "byron").await;
    let wanted = User { id: ada.id.clone(), last_name: "lovelace".into(), ..User::default() };
    let updated = server.client().update_user(update(&wanted, &[])).await.expect("an update").into_inner();
    assert_eq!((updated.first_name.as_str(), updated.last_name.as_str()), ("ada", "lovelace"));
    assert_eq!(updated.email, ada.email);
}

#[tokio::test]
async fn an_update_that_changes_nothing_leaves_etag_and_time_alone() {
    let server = Server::start().await;
    let ada = server.created("ada", "byron").await;
    let request = update(&ada, &["*"]);
    let same = server.client().update_user(request.clone()).await.expect("an update").into_inner();
    assert_eq!(same, ada);
    let changed = User { first_name: "a".into(), ..ada.clone() };
    server.client().update_user(update(&changed, &["first_name"])).await.expect("the etag fits still");
    let retry = server.client().update_user(request).await.expect("the first answer").into_inner();
    assert_eq!(retry, ada, "a retry gets the first answer, though the user has changed since");
}

#[tokio::test]
async fn an_email_moves_with_its_index_and_frees_the_old_one() {
    let server = Server::start().await;
    let ada = server.created("ada", "byron").await;
    let wanted = User { email: "ADA@example.org".into(), etag: String::new(), ..ada.clone() };
    server.client().update_user(update(&wanted, &["email"])).await.expect("an update");
    let by_email = |email: &str| ListUsersRequest { email: email.into(), ..ListUsersRequest::default() };
    let found = server.client().list_users(by_email("ada@EXAMPLE.org")).await.expect("a list").into_inner();
    assert_eq!(found.users.len(), 1);
    let old = server.client().list_users(by_email(&ada.email)).await.expect("a list").into_inner();
    assert!(old.users.is_empty());
    server.client().create_user(create(&with_email(&ada.email), &unique())).await.expect("the address is free");
}

#[tokio::test]
async fn an_email_can_change_its_case_but_not_become_another_users() {
    let server = Server::start().await;
    let ada = server.created("ada", "byron").await;
    let eve = server.created("eve", "byron").await;
    let louder = User { email: ada.email.to_uppercase(), etag: String::new(), ..ada.clone() };
    let louder = server.client().update_user(update(&louder, &["email"])).await.expect("an update").into_inner();
    assert_eq!(louder.email, ada.email.to_uppercase());
    let taken = User { email: ada.email, etag: String::new(), ..eve.clone() };
    let taken = server.client().update_user(update(&taken, &["email"])).await.expect_err("taken");
    assert_eq!((taken.code(), reason(&taken)), (Code::AlreadyExists, "EMAIL_TAKEN".into()));
    let read = server.client().get_user(GetUserRequest { id: eve.id.clone() }).await.expect("the user").into_inner();
    assert_eq!(read, eve, "nothing was changed");
}

#[tokio::test]
async fn a_stale_etag_is_refused_with_the_current_one() {
    let server = Server::start().await;
    let ada = server.created("ada", "byron").await;
    let first = User { first_name: "a".into(), ..ada.clone() };
    let current =
        server.client().update_user(update(&first, &["first_name"])).await.expect("the etag fits").into_inner();
    let stale = server.client().update_user(update(&first, &["first_name"])).await.expect_err("stale");
    let (reason, details) = details(&stale);
    assert_eq!((stale.code(), reason.as_str()), (Code::Aborted, "ETAG_STALE"));
    assert_eq!(details.error_info().expect("an ErrorInfo").metadata["etag"], current.etag);
    let stale = server.client().delete_user(delete(&ada, &ada.etag)).await.expect_err("stale");
    assert_eq!(crate::server::reason(&stale), "ETAG_STALE");
    server.client().delete_user(delete(&ada, &current.etag)).await.expect("the etag fits");
}

#[tokio::test]
async fn the_retry_of_an_update_with_an_etag_gets_its_first_answer() {
    let server = Server::start().await;
    let ada = server.created("ada", "byron").await;
    let request = update(&User { first_name: "a".into(), ..ada.clone() }, &["first_name"]);
    let first = server.client().update_user(request.clone()).await.expect("an update").into_inner();
    let retry = server.client().update_user(request.clone()).await.expect("the first answer").into_inner();
    assert_eq!(retry, first);
    server.client().delete_user(delete(&ada, "")).await.expect("a deletion");
    let retry = server.client().update_user(request).await.expect("the first answer").into_inner();
    assert_eq!(retry, first, "also when the user is gone");
}

#[tokio::test]
async fn the_retry_of_a_deletion_succeeds_and_another_deletion_does_not() {
    let server = Server::start().await;
    let ada = server.created("ada", "byron").await;
    let request = delete(&ada, "");
    server.client().delete_user(request.clone()).await.expect("a deletion");
    server.client().delete_user(request).await.expect("its retry");
    let again = server.client().delete_user(delete(&ada, "")).await.expect_err("gone");
    assert_eq!((again.code(), reason(&again)), (Code::NotFound, "USER_NOT_FOUND".into()));
    let lenient = DeleteUserRequest { allow_missing: true, ..delete(&ada, "") };
    server.client().delete_user(lenient).await.expect("missing is allowed");
    let missing = server.client().update_user(update(&User { etag: String::new(), ..ada }, &["*"])).await;
    assert_eq!(reason(&missing.expect_err("gone")), "USER_NOT_FOUND");
}

#[tokio::test]
async fn a_deleted_user_is_found_by_nothing_and_the_address_is_free() {
    let server = Server::start().await;
    let ada = server.created("ada", "byron").await;
    server.client().delete_user(delete(&ada, "")).await.expect("a deletion");
    for filter in [
        ListUsersRequest { email: ada.email.clone(), ..ListUsersRequest::default() },
        ListUsersRequest { name_prefix: "ada".into(), ..ListUsersRequest::default() },
        ListUsersRequest::default(),
    ] {
        let found = server.client().list_users(filter).await.expect("a list").into_inner();
        assert!(found.users.is_empty(), "{found:?}");
    }
    server.client().create_user(create(&with_email(&ada.email), &unique())).await.expect("the address is free");
}

#[tokio::test]
async fn bad_masks_etags_and_values_are_told_by_field() {
    let server = Server::start().await;
    let ada = server.created("ada", "byron").await;
    let bad = User { id: "x".into(), etag: "?".into(), ..User::default() };
    let refused = server.client().update_user(update(&bad, &["create_time"])).await.expect_err("bad");
    assert_eq!(fields(&refused), ["user.id", "user.etag", "update_mask"]);
    let cleared = User { email: String::new(), ..ada };
    let refused = server.client().update_user(update(&cleared, &["email"])).await.expect_err("an email is required");
    assert_eq!(fields(&refused), ["user.email"]);
}

#[tokio::test]
async fn concurrent_updates_of_one_user_all_count() {
    let server = Server::start().await;
    let ada = server.created("ada", "byron").await;
    let one = |field: &'static str| {
        let (mut client, ada) = (server.client(), ada.clone());
        let wanted = User {
            id: ada.id,
            first_name: "new".into(),
            last_name: "new".into(),
            display_name: "new".into(),
            ..User::default()
        };
        async move { client.update_user(update(&wanted, &[field])).await.expect("an update") }
    };
    tokio::join!(one("first_name"), one("last_name"), one("display_name"));
    let read = server.client().get_user(GetUserRequest { id: ada.id }).await.expect("the user").into_inner();
    assert_eq!([&read.first_name, &read.last_name, &read.display_name], ["new"; 3]);
}
