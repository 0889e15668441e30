//! What names, ids and documents may be, as the contract says. Each check
//! gives the problem; the caller knows which field has it.

use std::fmt::Write;

use flotilla_kit::Violations;
use prost_types::{ListValue, Struct, Value, value::Kind};

/// Bytes of a table's name.
pub(crate) const MAX_TABLE: usize = 128;
const MAX_ID: usize = 512;
/// Levels of objects and lists.
const MAX_DEPTH: usize = 32;

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

/// Notes the first thing that is wrong with a document.
pub(crate) fn check_document(violations: &mut Violations, place: Place, document: &Struct) {
    if let Err(Fault { path, problem }) = object(document, 1) {
        violations.add(place.field("document") + &path, problem);
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

/// What is wrong in a document, and where.
struct Fault {
    path: String,
    problem: &'static str,
}

impl Fault {
    fn here(problem: &'static str) -> Self {
        Self { path: String::new(), problem }
    }

    /// The same fault, seen from one level further out.
    fn under(mut self, step: std::fmt::Arguments<'_>) -> Self {
        let mut path = String::new();
        // Writing to a string can't fail.
        let _ = path.write_fmt(step);
        path.push_str(&self.path);
        self.path = path;
        self
    }
}

fn object(object: &Struct, depth: usize) -> Result<(), Fault> {
    if depth > MAX_DEPTH {
        return Err(Fault::here("is deeper than 32 levels of objects and lists"));
    }
    for (name, value) in &object.fields {
        self::value(value, depth).map_err(|fault| fault.under(format_args!(".{name}")))?;
    }
    Ok(())
}

fn list(list: &ListValue, depth: usize) -> Result<(), Fault> {
    if depth > MAX_DEPTH {
        return Err(Fault::here("is deeper than 32 levels of objects and lists"));
    }
    for (index, value) in list.values.iter().enumerate() {
        self::value(value, depth).map_err(|fault| fault.under(format_args!("[{index}]")))?;
    }
    Ok(())
}

fn value(value: &Value, depth: usize) -> Result<(), Fault> {
    match &value.kind {
        Some(Kind::NumberValue(number)) if !number.is_finite() => {
            Err(Fault::here("is no finite number, and JSON has no other"))
        }
        Some(Kind::StructValue(inner)) => object(inner, depth + 1),
        Some(Kind::ListValue(inner)) => list(inner, depth + 1),
        Some(_) => Ok(()),
        None => Err(Fault::here("has no value; JSON's null is null_value")),
    }
}

#[cfg(test)]
mod tests {
    use flotilla_kit::Error;

    use super::*;

    fn number(number: f64) -> Value {
        Value { kind: Some(Kind::NumberValue(number)) }
    }

    fn with(name: &str, value: Value) -> Struct {
        Struct { fields: [(name.to_owned(), value)].into() }
    }

    fn nested(levels: usize) -> Struct {
        (1..levels).fold(Struct::default(), |inner, level| {
            let inner = Value { kind: Some(Kind::StructValue(inner)) };
            match level % 2 {
                0 => with("o", inner),
                _ => with("l", Value { kind: Some(Kind::ListValue(ListValue { values: vec![inner] })) }),
            }
        })
    }

    fn refused_field(document: &Struct) -> Option<String> {
        let mut violations = Violations::default();
        check_document(&mut violations, Place::Operation(3, "put"), document);
        match violations.finish() {
            Ok(()) => None,
            Err(Error::InvalidFields(violations)) => Some(violations[0].field.clone()),
            Err(other) => panic!("expected a violation, got {other:?}"),
        }
    }

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

    #[test]
    fn numbers_of_a_document_are_finite() {
        assert_eq!(refused_field(&with("length", number(-0.0))), None);
        for infinite in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let list = Value { kind: Some(Kind::ListValue(ListValue { values: vec![number(1.0), number(infinite)] })) };
            assert_eq!(refused_field(&with("sizes", list)).as_deref(), Some("operations[3].put.document.sizes[1]"));
        }
    }

    #[test]
    fn a_value_without_a_kind_is_refused() {
        assert_eq!(refused_field(&with("x", Value { kind: None })).as_deref(), Some("operations[3].put.document.x"));
        assert_eq!(refused_field(&with("x", Value { kind: Some(Kind::NullValue(0)) })), None);
    }

    #[test]
    fn a_document_has_at_most_32_levels() {
        let levels = |document: &Struct| {
            fn of(document: &Struct) -> usize {
                1 + document.fields.values().map(value).max().unwrap_or(0)
            }
            fn value(value: &Value) -> usize {
                match &value.kind {
                    Some(Kind::StructValue(inner)) => of(inner),
                    Some(Kind::ListValue(inner)) => 1 + inner.values.iter().map(value_).max().unwrap_or(0),
                    _ => 0,
                }
            }
            fn value_(inner: &Value) -> usize {
                value(inner)
            }
            of(document)
        };
        for count in 1..40 {
            let document = nested(count);
            assert_eq!(refused_field(&document).is_some(), levels(&document) > 32, "{count}");
        }
    }
}
