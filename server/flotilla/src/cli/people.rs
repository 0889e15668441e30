//! A user as a person names one: by id, by address, or by name.

use flotilla_client::{Client, Pages};
use flotilla_proto::users::v1::{ListUsersRequest, User};
use ulid::Ulid;

use super::{Failure, output::printable};

/// How many candidates an error lists.
const CANDIDATES: usize = 10;

/// The id of the user that is meant: a ULID is the id, what has an `@` is the address, and anything
/// else is exactly one user's display, first or last name, without regard to case.
pub(super) async fn find(client: &Client, argument: &str, text: &str) -> Result<String, Failure> {
    if Ulid::from_string(text).is_ok() {
        return Ok(text.to_owned());
    }
    let wrong = |reason| Failure::Argument { argument: format!("{argument} {text}"), reason };
    if text.contains('@') {
        let request = ListUsersRequest { email: text.to_owned(), ..ListUsersRequest::default() };
        let user = all(client, request, |_| true).await?.0.pop();
        return user.map(|user| user.id).ok_or_else(|| wrong("no user has this address".to_owned()));
    }
    let request = ListUsersRequest { name_prefix: text.to_owned(), ..ListUsersRequest::default() };
    let (mut called, others) = all(client, request, |user| is_called(user, text)).await?;
    match called.len() {
        1 => Ok(called.remove(0).id),
        0 if others.is_empty() => Err(wrong("no user has this name; `flotilla users list` shows them".to_owned())),
        0 => Err(wrong(format!("no user has this name; the names of these begin with it:{}", listed(&others)))),
        _ => Err(wrong(format!("several users have this name, so give an id or an address:{}", listed(&called)))),
    }
}

/// The users of a list that are meant, and some of those that aren't, as far as an error needs them.
/// With a prefix, users who are called exactly so come first.
async fn all(
    client: &Client,
    request: ListUsersRequest,
    meant: impl Fn(&User) -> bool,
) -> Result<(Vec<User>, Vec<User>), Failure> {
    let (mut called, mut others) = (Vec::new(), Vec::new());
    let mut pages = Pages::new(client, request);
    while called.len() <= CANDIDATES && others.len() <= CANDIDATES {
        let Some(page) = pages.next(100).await? else { break };
        let (these, those): (Vec<User>, Vec<User>) = page.items.into_iter().partition(&meant);
        called.extend(these);
        others.extend(those);
    }
    Ok((called, others))
}

fn is_called(user: &User, name: &str) -> bool {
    let name = name.to_lowercase();
    [&user.display_name, &user.first_name, &user.last_name].into_iter().any(|own| own.to_lowercase() == name)
}

fn listed(users: &[User]) -> String {
    let line = |user: &User| format!("\n  {}  {}  {}", user.id, user.email, user.display_name);
    let mut text: String = users.iter().take(CANDIDATES).map(line).collect();
    if users.len() > CANDIDATES {
        text.push_str("\n  …");
    }
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_of_three_without_regard_to_case() {
        let user = User {
            first_name: "Ada".to_owned(),
            last_name: "Lovelace".to_owned(),
            display_name: "The Countess".to_owned(),
            ..User::default()
        };
        assert!(["ada", "LOVELACE", "the countess"].iter().all(|name| is_called(&user, name)));
        assert!(!is_called(&user, "ad") && !is_called(&user, "ada lovelace"));
    }

    #[test]
    fn candidates_are_listed_one_a_line_and_not_without_end() {
        let user = |n: usize| User { id: format!("id-{n}"), display_name: "a\u{1b}b".to_owned(), ..User::default() };
        let users: Vec<User> = (0..12).map(user).collect();
        let text = listed(&users);
        assert_eq!(text.lines().count(), 12, "an empty line, ten users, and an ellipsis: {text}");
        assert!(text.starts_with("\n  id-0") && text.ends_with("…") && !text.contains('\u{1b}'));
    }
}
