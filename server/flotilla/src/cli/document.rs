//! A JSON document as an argument.

use std::{fs, io};

use prost_types::Struct;

use super::{Failure, json};

/// Reads a JSON object: as it stands, from `@FILE`, or from stdin for `-`.
pub(super) fn read_document(argument: &str, text: &str) -> Result<Struct, Failure> {
    let file = |path: &str| fs::read_to_string(path);
    let text = match text.strip_prefix('@') {
        Some(path) => file(path).map_err(|source| Failure::File { operation: "read", path: path.into(), source })?,
        None if text == "-" => io::read_to_string(io::stdin()).map_err(|source| Failure::File {
            operation: "read",
            path: "stdin".into(),
            source,
        })?,
        None => text.to_owned(),
    };
    json::from_json(&text).map_err(|error| Failure::Argument {
        argument: argument.to_owned(),
        reason: format!("{error}; it must be a JSON object, such as '{{\"length_m\": 4.2}}'"),
    })
}
