//! The tables, and the rows by which users are found without a scan.
//!
//! | table | key | value |
//! |---|---|---|
//! | `users` | id | the user, as `row` stores it |
//! | `emails` | the address in lower case | id |
//! | `names` | a name in lower case, a zero byte, id | nothing |
//!
//! Index rows change in the transaction that changes their user, so they are
//! never wrong. A row of `emails` is also what makes an address unique.

use std::collections::BTreeSet;

use flotilla_kit::TransactionBuilder;
use flotilla_proto::users::v1::User;

pub(crate) const USERS: &str = "users";
pub(crate) const EMAILS: &str = "emails";
pub(crate) const NAMES: &str = "names";

/// Ends the name in a key of [`NAMES`]. No name contains it, and it sorts
/// before everything that a name may contain.
const NAME_END: char = '\0';

/// How text is compared: without regard to case.
///
/// Each character by itself, because `str::to_lowercase` makes a sigma
/// dependent on what follows it, and a prefix must stay one.
pub(crate) fn fold(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

/// The names by which a user is found; equal ones count once.
pub(crate) fn names(user: &User) -> BTreeSet<String> {
    let names = [&user.display_name, &user.first_name, &user.last_name];
    names.into_iter().filter(|name| !name.is_empty()).map(|name| fold(name)).collect()
}

/// The key of a row of [`NAMES`].
pub(crate) fn name_key(name: &str, id: &str) -> String {
    format!("{name}{NAME_END}{id}")
}

/// The name and the id of a key of [`NAMES`].
pub(crate) fn split_name_key(key: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(key).ok()?.split_once(NAME_END)
}

/// Adds what leads from the index rows of one version of a user to those of
/// the next; none is a user who doesn't exist. A new address must be free:
/// that is the last condition of the transaction.
pub(crate) fn reindex(
    mut transaction: TransactionBuilder,
    id: &str,
    before: Option<&User>,
    after: Option<&User>,
) -> TransactionBuilder {
    let [old_email, new_email] = [before, after].map(|user| user.map(|user| fold(&user.email)));
    if old_email != new_email {
        if let Some(old) = old_email {
            transaction = transaction.delete(EMAILS, old);
        }
        if let Some(new) = new_email {
            transaction = transaction.row_absent(EMAILS, new.clone()).put(EMAILS, new, id.to_owned());
        }
    }
    let [old_names, new_names] = [before, after].map(|user| user.map(names).unwrap_or_default());
    for gone in old_names.difference(&new_names) {
        transaction = transaction.delete(NAMES, name_key(gone, id));
    }
    for new in new_names.difference(&old_names) {
        transaction = transaction.put(NAMES, name_key(new, id), "");
    }
    transaction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_stays_a_prefix_whatever_follows_it() {
        assert!(fold("ΟΔΥΣΣΕΥΣ").starts_with(&fold("ΟΔΥΣ")));
        assert_eq!(fold("Ada LOVELACE"), "ada lovelace");
    }

    #[test]
    fn equal_names_are_indexed_once() {
        let user =
            User { display_name: "ADA".into(), first_name: "Ada".into(), last_name: String::new(), ..User::default() };
        assert_eq!(names(&user), BTreeSet::from(["ada".to_owned()]));
    }

    #[test]
    fn a_shorter_name_sorts_before_a_longer_one_whatever_the_ids() {
        assert!(name_key("ada", "9") < name_key("ada b", "1"));
        assert_eq!(split_name_key(name_key("ada", "9").as_bytes()), Some(("ada", "9")));
    }
}
