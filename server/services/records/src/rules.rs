//! What names and ids may be, as the contract says. Each check
//! gives the problem; the caller knows which field has it.

use flotilla_kit::Violations;

/// Bytes of a table's name.
pub(crate) const MAX_TABLE: usize = 128;
const MAX_ID: usize = 512;

/// Where in a request a record is named.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// In its own fields.
    Request,
    /// In one operation of a batch, which is of this kind.
    Operation(usize, &'static str),
}

impl Place {
    /// The path of a field there.
    pub(crate) fn field(self, name: &str) -> String {
        match self {
            Self::Request => name.to_owned(),
            Self::Operation(index, kind) => format!("operations[{index}].{kind}.{name}"),
        }
    }
}

/// Notes what is wrong with a record's table and id.
pub(crate) fn check_name(violations: &mut Violations, place: Place, table: &str, id: &str) {
    check_table(violations, place, table);
    if let Err(problem) = self::id(id) {
        violations.add(place.field("id"), problem);
    }
}

/// Notes what is wrong with a table's name.
pub(crate) fn check_table(violations: &mut Violations, place: Place, table: &str) {
    if let Err(problem) = self::table(table) {
        violations.add(place.field("table"), problem);
    }
}

/// A table's name.
pub(crate) fn table(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("is empty; a table's name is required".into());
    }
    if name.len() > MAX_TABLE {
        return Err(format!("is {} bytes long; at most {MAX_TABLE} are possible", name.len()));
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)) {
        return Err("has other characters than A-Z a-z 0-9 _ . -".into());
    }
    match name.starts_with('.') || name.contains("..") {
        true => Err("begins with a dot or has two in a row".into()),
        false => Ok(()),
    }
}

/// A record's id.
pub(crate) fn id(id: &str) -> Result<(), String> {
    if id.is_empty() {
        return Err("is empty; a record's id is required".into());
    }
    id_prefix(id)
}

/// The beginning of a record's id, which may be empty.
pub(crate) fn id_prefix(id: &str) -> Result<(), String> {
    if id.len() > MAX_ID {
        return Err(format!("is {} bytes long; at most {MAX_ID} are possible", id.len()));
    }
    match id.chars().any(|character| character == '/' || character.is_control()) {
        true => Err("has a slash or a control character".into()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_short_and_harmless_name() {
        for good in ["boats", "a", "Boats_2.v-1", "-", &"t".repeat(128)] {
            assert_eq!(table(good), Ok(()), "{good}");
        }
        for bad in ["", ".boats", "a..b", "a/b", "a b", "boats\n", "böte", &"t".repeat(129), &"t".repeat(10_000)] {
            assert!(table(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_id_has_no_slash_and_no_control_characters() {
        for good in ["skiff", "schöner Kahn", "..", &"i".repeat(512)] {
            assert_eq!(id(good), Ok(()), "{good}");
        }
        for bad in ["", "a/b", "a\0", "a\u{85}", &"i".repeat(513)] {
            assert!(id(bad).is_err(), "{bad:?}");
        }
    }
}
