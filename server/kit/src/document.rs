//! Documents: what a `google.protobuf.Struct` may hold that is kept for an
//! application.

use std::fmt::Write;

use prost_types::{ListValue, Struct, Value, value::Kind};

use crate::fields::FieldViolation;

/// Levels of objects and lists.
const MAX_DEPTH: usize = 32;

/// Whether a document can be written as JSON, and is at most 32 levels deep.
///
/// # Errors
/// The first thing that is wrong, with its path after that of the field.
pub fn check(field: &str, document: &Struct) -> Result<(), FieldViolation> {
    object(document, 1).map_err(|Fault { path, problem }| FieldViolation::new(format!("{field}{path}"), problem))
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
        check("document", document).err().map(|violation| violation.field)
    }

    #[test]
    fn numbers_of_a_document_are_finite() {
        assert_eq!(refused_field(&with("length", number(-0.0))), None);
        for infinite in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let list = Value { kind: Some(Kind::ListValue(ListValue { values: vec![number(1.0), number(infinite)] })) };
            assert_eq!(refused_field(&with("sizes", list)).as_deref(), Some("document.sizes[1]"));
        }
    }

    #[test]
    fn a_value_without_a_kind_is_refused() {
        assert_eq!(refused_field(&with("x", Value { kind: None })).as_deref(), Some("document.x"));
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
