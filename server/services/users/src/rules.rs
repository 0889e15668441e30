//! What a user's fields may be, as the contract says.

use flotilla_kit::{
    Violations,
    fields::{self, FieldViolation, name},
};
use flotilla_proto::users::v1::User;

const MAX_EMAIL: usize = 254;
const MAX_LABELS: usize = 64;
const MAX_LABEL_KEY: usize = 63;
const MAX_LABEL_VALUE: usize = 256;

/// The fields that a client may set.
pub(crate) const SETTABLE: &[&str] = &["email", "first_name", "last_name", "display_name", "labels"];

/// Notes what is wrong with some of the settable fields of a request's user.
pub(crate) fn check_user(violations: &mut Violations, user: &User, fields: &[&str]) {
    for field in fields {
        let path = format!("user.{field}");
        match *field {
            "email" => violations.check(email(&path, &user.email)),
            "first_name" => violations.check(name(&path, &user.first_name)),
            "last_name" => violations.check(name(&path, &user.last_name)),
            "display_name" => violations.check(name(&path, &user.display_name)),
            _ => check_labels(violations, user),
        }
    }
}

/// An address: one `@` with something on both sides, and nothing that can't be
/// in one. Whether mail arrives only a mail can tell.
pub(crate) fn email(field: &str, email: &str) -> Result<(), FieldViolation> {
    let refused = |problem: String| Err(FieldViolation::new(field, problem));
    if email.is_empty() {
        return refused("is empty; an email address is required".into());
    }
    if email.len() > MAX_EMAIL {
        return refused(format!("is {} bytes long; at most {MAX_EMAIL} are possible", email.len()));
    }
    if email.chars().any(|character| character.is_whitespace() || character.is_control()) {
        return refused("has a space or a control character, which no email address has".into());
    }
    match email.split_once('@') {
        Some((local, domain)) if !local.is_empty() && !domain.is_empty() && !domain.contains('@') => Ok(()),
        _ => refused("is no email address: it has one @ with something on both sides".into()),
    }
}

/// A user's id.
pub(crate) fn id(field: &str, id: &str) -> Result<(), FieldViolation> {
    fields::id(field, "user", id)
}

fn check_labels(violations: &mut Violations, user: &User) {
    if user.labels.len() > MAX_LABELS {
        violations.add("user.labels", format!("has {} entries; at most {MAX_LABELS} are possible", user.labels.len()));
        return;
    }
    for (key, value) in &user.labels {
        // The key as a client would write it, but not all of one that is huge.
        let field = format!("user.labels[{:?}]", key.chars().take(MAX_LABEL_KEY).collect::<String>());
        let begins_well = key.starts_with(|first: char| first.is_ascii_lowercase());
        if key.len() > MAX_LABEL_KEY || !begins_well || !key.bytes().all(is_label_byte) {
            let problem =
                format!("has a key that isn't 1 to {MAX_LABEL_KEY} of a-z 0-9 _ - . / beginning with a letter");
            violations.add(&field, problem);
        }
        if value.len() > MAX_LABEL_VALUE {
            let problem = format!("has a value of {} bytes; at most {MAX_LABEL_VALUE} are possible", value.len());
            violations.add(&field, problem);
        }
    }
}

fn is_label_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-./".contains(&byte)
}

#[cfg(test)]
mod tests {
    use flotilla_kit::Error;

    use super::*;

    fn refused_fields(user: &User) -> Vec<String> {
        let mut violations = Violations::default();
        check_user(&mut violations, user, SETTABLE);
        match violations.finish() {
            Ok(()) => Vec::new(),
            Err(Error::InvalidFields(violations)) => violations.into_iter().map(|violation| violation.field).collect(),
            Err(other) => panic!("expected violations, got {other:?}"),
        }
    }

    fn ada() -> User {
        User { email: "ada@example.org".into(), ..User::default() }
    }

    fn labelled(key: &str, value: &str) -> User {
        User { labels: [(key.to_owned(), value.to_owned())].into(), ..ada() }
    }

    #[test]
    fn an_address_has_one_at_with_something_on_both_sides() {
        for good in ["a@b", "Ada.Lovelace+x@Example.ORG", "ada@[127.0.0.1]", "ζ@παράδειγμα.gr"] {
            assert_eq!(email("email", good), Ok(()), "{good}");
        }
        let long = format!("{}@example.org", "a".repeat(250));
        for bad in ["", "ada", "@example.org", "ada@", "a@b@c", "a da@b", "ada@b\n", "ada@\u{a0}b", &long] {
            assert!(email("email", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_are_bounded_and_have_no_control_characters() {
        assert_eq!(name("first_name", &"é".repeat(128)), Ok(()));
        assert!(name("first_name", &"é".repeat(129)).is_err());
        assert!(name("first_name", "A\0da").is_err());
    }

    #[test]
    fn an_id_is_a_ulid_in_its_canonical_writing() {
        assert_eq!(id("id", "01ARZ3NDEKTSV4RRFFQ69G5FAV"), Ok(()));
        for bad in ["", "ada", "01arz3ndektsv4rrffq69g5fav", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ", "01ARZ3NDEKTSV4RRFFQ69G5FA"]
        {
            assert!(id("id", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn labels_are_bounded_in_number_key_and_value() {
        assert!(refused_fields(&labelled("team/role-1", "captain")).is_empty());
        for key in ["", "1st", "Team", "a b", "é", &"k".repeat(64)] {
            assert_eq!(refused_fields(&labelled(key, "")).len(), 1, "{key:?}");
        }
        assert_eq!(refused_fields(&labelled("note", &"x".repeat(257))), ["user.labels[\"note\"]"]);
        let many = (0..65).map(|number| (format!("k{number}"), String::new())).collect();
        assert_eq!(refused_fields(&User { labels: many, ..ada() }), ["user.labels"]);
    }

    #[test]
    fn everything_that_is_wrong_with_a_user_is_told_at_once() {
        let user = User { first_name: "\t".into(), display_name: "x".repeat(300), ..User::default() };
        assert_eq!(refused_fields(&user), ["user.email", "user.first_name", "user.display_name"]);
    }
}
