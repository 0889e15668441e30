//! ListUsers: each filter has an index, so no list looks at users who aren't
//! in it.

use flotilla_kit::{Call, Context, Error, Page, View, Violations, fields, view::Items};
use flotilla_proto::users::v1::{ListUsersRequest, ListUsersResponse, User};

use crate::{
    index::{EMAILS, NAMES, USERS, fold, names, split_name_key},
    row, rules,
};

pub(crate) async fn list(
    context: &Context,
    call: &Call,
    request: ListUsersRequest,
) -> Result<(u64, ListUsersResponse), Error> {
    let ListUsersRequest { page_size, page_token, email, name_prefix } = request;
    let mut violations = Violations::default();
    if !email.is_empty() {
        violations.check(rules::email("email", &email));
    }
    violations.check(fields::name("name_prefix", &name_prefix));
    violations.finish()?;
    let (email, prefix) = (fold(&email), fold(&name_prefix));
    let page = context.page(call, &[&email, &prefix], page_size, &page_token)?;

    let view = context.read(call).await?;
    let Items { items, next_page_token } = match (email.is_empty(), prefix.is_empty()) {
        (false, _) => by_email(&view, &email, &prefix)?,
        (true, false) => by_name(&view, &prefix, &page)?,
        (true, true) => view.page(USERS, b"", &page, |key, found| Ok(Some(row::decode(id_of(key)?, &found)?)))?,
    };
    Ok((view.revision(), ListUsersResponse { users: items, next_page_token }))
}

/// At most one user, who must have a name with the prefix, if there is one.
fn by_email(view: &View, email: &str, prefix: &str) -> Result<Items<User>, Error> {
    let mut items = Vec::new();
    if let Some(entry) = view.get(EMAILS, email.as_bytes())? {
        let user = user(view, id_of(&entry.value)?)?;
        // Both rows are read at different moments: the user may have changed.
        let matches = |user: &User| {
            let by_name = prefix.is_empty() || names(user).iter().any(|name| name.starts_with(prefix));
            fold(&user.email) == email && by_name
        };
        items.extend(user.filter(matches));
    }
    Ok(Items { items, next_page_token: String::new() })
}

/// A user with several matching names is listed at the first of them. Which
/// one that is can be seen from the user alone, so no page needs to know what
/// those before it listed.
fn by_name(view: &View, prefix: &str, page: &Page) -> Result<Items<User>, Error> {
    view.page(NAMES, prefix.as_bytes(), page, |key, _| {
        let damaged = || Error::internal(format!("the name index has the key {key:02x?}"));
        let (name, id) = split_name_key(key).ok_or_else(damaged)?;
        let first = |user: &User| names(user).into_iter().find(|name| name.starts_with(prefix));
        Ok(user(view, id)?.filter(|user| first(user).as_deref() == Some(name)))
    })
}

fn user(view: &View, id: &str) -> Result<Option<User>, Error> {
    view.get(USERS, id.as_bytes())?.map(|found| row::decode(id, &found)).transpose()
}

fn id_of(key: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(key).map_err(Error::internal)
}
