//! Paging against a model, with writes between the pages.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::users::v1::{DeleteUserRequest, ListUsersRequest, UpdateUserRequest, User};
use proptest::prelude::*;
use prost_types::FieldMask;

use crate::server::{Server, create, unique};

/// What happens between two pages. A user is chosen by the rest of a division.
#[derive(Debug, Clone)]
enum Write {
    Create { first: String, last: String },
    Rename { user: usize, last: String },
    Delete { user: usize },
}

fn name() -> impl Strategy<Value = String> {
    // Few letters, so that names meet, share prefixes, and are equal but for case.
    "[aAb]{0,3}"
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        3 => (name(), name()).prop_map(|(first, last)| Write::Create { first, last }),
        2 => (any::<usize>(), name()).prop_map(|(user, last)| Write::Rename { user, last }),
        1 => any::<usize>().prop_map(|user| Write::Delete { user }),
    ]
}

/// The users that a perfect list would show: by id.
type Model = BTreeMap<String, User>;

async fn apply(server: &Server, model: &mut Model, write: &Write) -> Option<String> {
    let chosen = |user: usize, model: &Model| model.keys().nth(user % model.len().max(1)).cloned();
    match write {
        Write::Create { first, last } => {
            let email = format!("{}@example.org", unique());
            let user = User {
                email,
                first_name: first.clone(),
                last_name: last.clone(),
                display_name: "~".into(),
                ..User::default()
            };
            let user = server.client().create_user(create(&user, &unique())).await.expect("a new user").into_inner();
            let id = user.id.clone();
            model.insert(id.clone(), user);
            Some(id)
        }
        Write::Rename { user, last } => {
            let id = chosen(*user, model)?;
            let user = User { id: id.clone(), last_name: last.clone(), ..User::default() };
            let update_mask = Some(FieldMask { paths: vec!["last_name".into()] });
            let request = UpdateUserRequest { user: Some(user), update_mask, request_id: unique() };
            let user = server.client().update_user(request).await.expect("an update").into_inner();
            model.insert(id.clone(), user);
            Some(id)
        }
        Write::Delete { user } => {
            let id = chosen(*user, model)?;
            let request = DeleteUserRequest { id: id.clone(), request_id: unique(), ..DeleteUserRequest::default() };
            server.client().delete_user(request).await.expect("a deletion");
            model.remove(&id);
            Some(id)
        }
    }
}

fn matching<'a>(user: &'a User, prefix: &str) -> Option<(String, &'a str)> {
    let names = [&user.display_name, &user.first_name, &user.last_name];
    let names = names.into_iter().map(|name| name.to_lowercase());
    let first = names.filter(|name| !name.is_empty() && name.starts_with(prefix)).min()?;
    Some((first, &user.id))
}

/// What the list shows of a model, in its order.
fn expected(model: &Model, prefix: &str) -> Vec<String> {
    if prefix.is_empty() {
        return model.keys().cloned().collect();
    }
    let matching: BTreeSet<_> = model.values().filter_map(|user| matching(user, prefix)).collect();
    matching.into_iter().map(|(_, id)| id.to_owned()).collect()
}

async fn check(before: Vec<Write>, between: Vec<Write>, prefix: &str, page_size: i32) {
    let server = Server::start().await;
    let mut model = Model::new();
    for write in &before {
        apply(&server, &mut model, write).await;
    }
    let at_start = model.clone();
    let mut touched = BTreeSet::new();
    let mut between = between.iter();
    let mut listed: Vec<String> = Vec::new();
    let mut request = ListUsersRequest { page_size, name_prefix: prefix.into(), ..ListUsersRequest::default() };
    loop {
        let page = server.client().list_users(request.clone()).await.expect("a page").into_inner();
        assert!(page.users.len() <= page_size as usize);
        listed.extend(page.users.into_iter().map(|user| user.id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
        if let Some(write) = between.next() {
            touched.extend(apply(&server, &mut model, write).await);
        }
    }
    // Users whom nobody changed meanwhile: all of them, once, in order.
    listed.retain(|id| !touched.contains(id));
    let mut expected = expected(&at_start, &prefix.to_lowercase());
    expected.retain(|id| !touched.contains(id));
    assert_eq!(listed, expected);
    server.replica.shutdown().await.expect("a clean end");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn users_that_are_left_alone_are_listed_once_and_in_order_whatever_happens_to_others(
        before in prop::collection::vec(write(), 0..24),
        between in prop::collection::vec(write(), 0..12),
        prefix in "[aAb]{0,2}",
        page_size in 1..6,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(check(before, between, &prefix, page_size));
    }
}
