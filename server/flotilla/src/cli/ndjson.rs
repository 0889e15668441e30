//! Records from lines of JSON.
//!
//! A line is `{"id": "skiff", "length_m": 4.2}`, whose other fields are the document; or, as
//! `records list` prints it, `{"id": "skiff", "document": {…}}`; or, with `--id-field name`, any
//! object that has that field, which stays in the document. Empty lines are skipped.

use std::io::{self, BufRead};

use prost_types::{ListValue, Struct, Value as ProtoValue, value::Kind};
use serde_json::{Map, Value};
use xxhash_rust::xxh3::Xxh3Default;

/// The longest line: a record is at most 1 MiB as protobuf, which JSON can't write in more.
const MAX_LINE: usize = 8 << 20;
/// Integers beyond this aren't exact in a document.
const MAX_EXACT: u64 = 1 << 53;

/// The lines of an input, counted and hashed.
pub(super) struct Lines<R> {
    input: R,
    hash: Xxh3Default,
    lines: u64,
    bytes: u64,
}

/// A place between two lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// Lines before it.
    pub(super) lines: u64,
    /// Bytes before it.
    pub(super) bytes: u64,
    /// XXH3 of those bytes.
    pub(super) hash: u64,
}

/// What is wrong with a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadLine {
    /// From 1, if the parser knows.
    pub(super) column: Option<usize>,
    /// For a person.
    pub(super) reason: String,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, hash: Xxh3Default::new(), lines: 0, bytes: 0 }
    }

    /// The next line, without its end; none at the end of the input.
    pub(super) fn next(&mut self) -> io::Result<Option<Result<String, BadLine>>> {
        let mut line = Vec::new();
        let read = io::Read::take(&mut self.input, MAX_LINE as u64 + 1).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(None);
        }
        self.lines += 1;
        self.bytes += read as u64;
        self.hash.update(&line);
        if read > MAX_LINE {
            return Ok(Some(Err(bad(format!("the line is longer than {MAX_LINE} bytes")))));
        }
        let text = String::from_utf8(line).map_err(|error| BadLine {
            column: Some(error.utf8_error().valid_up_to() + 1),
            reason: "the line is not UTF-8".to_owned(),
        });
        Ok(Some(text.map(|text| text.trim_end_matches(['\r', '\n']).to_owned())))
    }

    /// Where the reader is.
    pub(super) fn place(&self) -> Place {
        Place { lines: self.lines, bytes: self.bytes, hash: self.hash.digest() }
    }
}

/// A record from a line: its id and its document. None for an empty line.
pub(super) fn record(line: &str, id_field: Option<&str>) -> Result<Option<(String, Struct)>, BadLine> {
    if line.trim().is_empty() {
        return Ok(None);
    }
    let value: Value = serde_json::from_str(line).map_err(|error| BadLine {
        column: Some(error.column()),
        reason: error.to_string().split(" at line ").next().unwrap_or_default().to_owned(),
    })?;
    let Value::Object(mut fields) = value else {
        return Err(bad("a line is one JSON object".to_owned()));
    };
    let (id, fields) = match id_field {
        Some(field) => (id(fields.get(field), field)?, fields),
        None => {
            let id = id(fields.get("id"), "id")?;
            let document = take_document(&mut fields);
            fields.remove("id");
            (id, document.unwrap_or(fields))
        }
    };
    Ok(Some((id, document(fields)?)))
}

/// The document of a line that is a record as `records list` prints it.
fn take_document(fields: &mut Map<String, Value>) -> Option<Map<String, Value>> {
    let printed = ["id", "document", "table", "createTime", "updateTime", "etag"];
    let is_record = fields.keys().all(|key| printed.contains(&key.as_str()));
    match fields.get_mut("document") {
        Some(Value::Object(document)) if is_record => Some(std::mem::take(document)),
        _ => None,
    }
}

fn id(value: Option<&Value>, field: &str) -> Result<String, BadLine> {
    match value {
        Some(Value::String(id)) => Ok(id.clone()),
        Some(Value::Number(number)) if !number.is_f64() => Ok(number.to_string()),
        Some(_) => Err(bad(format!("`{field}` must be a text or a whole number, to be the record's id"))),
        None => Err(bad(format!("there is no `{field}` to be the record's id (--id-field names another)"))),
    }
}

fn document(fields: Map<String, Value>) -> Result<Struct, BadLine> {
    let fields = fields.into_iter().map(|(name, value)| Ok((name, proto(value)?)));
    Ok(Struct { fields: fields.collect::<Result<_, BadLine>>()? })
}

fn proto(value: Value) -> Result<ProtoValue, BadLine> {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        Value::Number(number) => {
            let whole = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            match number.as_f64() {
                Some(value) if whole.is_none_or(|whole| whole <= MAX_EXACT) => Kind::NumberValue(value),
                _ => return Err(bad(format!("{number} isn't exact as a document's number: write it as a text"))),
            }
        }
        Value::String(text) => Kind::StringValue(text),
        Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(proto).collect::<Result<_, _>>()? })
        }
        Value::Object(fields) => Kind::StructValue(document(fields)?),
    };
    Ok(ProtoValue { kind: Some(kind) })
}

fn bad(reason: String) -> BadLine {
    BadLine { column: None, reason }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::records::v1::Record;

    use super::*;
    use crate::cli::json::to_json;

    fn read(line: &str, id_field: Option<&str>) -> (String, String) {
        let (id, document) = record(line, id_field).unwrap().unwrap();
        let json = to_json(&Record { document: Some(document), ..Record::default() });
        (id, json["document"].to_string())
    }

    #[test]
    fn a_line_is_an_id_and_a_document() {
        let expected = ("skiff".to_owned(), r#"{"n":4.2}"#.to_owned());
        assert_eq!(read(r#"{"id":"skiff","n":4.2}"#, None), expected);
        assert_eq!(read(r#"{"id":"skiff","document":{"n":4.2},"etag":"x","table":"boats"}"#, None), expected);
        assert_eq!(read(r#"{"no":7,"id":1}"#, Some("no")), ("7".to_owned(), r#"{"id":1,"no":7}"#.to_owned()));
        assert_eq!(record("  ", None), Ok(None));
    }

    #[test]
    fn a_field_that_is_called_document_among_others_stays_a_field() {
        assert_eq!(read(r#"{"id":"a","document":{},"x":1}"#, None).1, r#"{"document":{},"x":1}"#);
    }

    #[test]
    fn a_bad_line_is_told_with_its_column() {
        let error = record(r#"{"id": "a", }"#, None).unwrap_err();
        assert_eq!(error.column, Some(13));
        for line in [r#"[1]"#, r#"{"x":1}"#, r#"{"id":true}"#, r#"{"id":"a","n":9007199254740993}"#] {
            assert!(record(line, None).is_err(), "{line}");
        }
    }

    #[test]
    fn lines_are_counted_and_their_bytes_hashed() {
        let mut lines = Lines::new(&b"a\r\nb"[..]);
        assert_eq!(lines.next().unwrap().unwrap(), Ok("a".to_owned()));
        let first = lines.place();
        assert_eq!(lines.next().unwrap().unwrap(), Ok("b".to_owned()));
        assert!(lines.next().unwrap().is_none());
        assert_eq!((first.lines, first.bytes), (1, 3));
        assert_eq!((lines.place().lines, lines.place().bytes), (2, 4));
        assert_ne!(lines.place().hash, first.hash);
    }
}
