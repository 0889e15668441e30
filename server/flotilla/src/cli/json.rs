//! Any message of the contract in the JSON that protobuf defines for it.

use std::sync::LazyLock;

use flotilla_proto::{
    FILE_DESCRIPTOR_SET, cluster::v1 as cluster, feed::v1 as feed, records::v1 as records, threads::v1 as threads,
    users::v1 as users,
};
use prost::Message;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, Kind, MessageDescriptor, ReflectMessage, SerializeOptions,
};
use serde_json::{Deserializer, Number, Value};

/// A message that knows its full name, under which the contract describes it.
pub(super) trait Named: Message + Default {
    /// `flotilla.users.v1.User`.
    const NAME: &'static str;
}

macro_rules! named {
    ($($type:ty => $name:literal),* $(,)?) => {
        $(impl Named for $type {
            const NAME: &'static str = $name;
        })*
    };
}

named! {
    users::User => "flotilla.users.v1.User",
    users::UserEvent => "flotilla.users.v1.UserEvent",
    records::Record => "flotilla.records.v1.Record",
    records::RecordEvent => "flotilla.records.v1.RecordEvent",
    records::Table => "flotilla.records.v1.Table",
    cluster::CheckResponse => "flotilla.cluster.v1.CheckResponse",
    cluster::FormCellResponse => "flotilla.cluster.v1.FormCellResponse",
    cluster::GetServersResponse => "flotilla.cluster.v1.GetServersResponse",
    cluster::Server => "flotilla.cluster.v1.Server",
    cluster::ServerEvent => "flotilla.cluster.v1.ServerEvent",
    cluster::TransferLeadershipResponse => "flotilla.cluster.v1.TransferLeadershipResponse",
    feed::Reset => "flotilla.feed.v1.Reset",
    threads::Thread => "flotilla.threads.v1.Thread",
    threads::Member => "flotilla.threads.v1.Member",
    threads::Event => "flotilla.threads.v1.Event",
    threads::Device => "flotilla.threads.v1.Device",
    threads::ThreadReset => "flotilla.threads.v1.ThreadReset",
    prost_types::Struct => "google.protobuf.Struct",
}

/// Everything that the contract describes. A test holds that it can be read.
static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap_or_default());

/// The message as JSON: lowerCamelCase names, times as RFC 3339, enums by name, 64-bit numbers as
/// strings; what is empty is left out.
pub(super) fn to_json<M: Named>(message: &M) -> Value {
    let Some(descriptor) = POOL.get_message_by_name(M::NAME) else { return Value::Null };
    let mut dynamic = DynamicMessage::new(descriptor);
    if dynamic.transcode_from(message).is_err() {
        return Value::Null;
    }
    let options = SerializeOptions::new();
    let mut json = dynamic.serialize_with_options(serde_json::value::Serializer, &options).unwrap_or(Value::Null);
    tidy(&mut json, &dynamic.descriptor());
    json
}

/// Sorts what has no order in a message (maps), and writes whole numbers of documents without
/// their `.0`. Fields stay in the order of the contract.
fn tidy(json: &mut Value, message: &MessageDescriptor) {
    if message.full_name() == "google.protobuf.Struct" {
        return shorten(json);
    }
    let Value::Object(fields) = json else { return };
    for (name, value) in fields {
        let Some(field) = message.get_field_by_json_name(name) else { continue };
        match (field.kind(), value) {
            (_, Value::Object(map)) if field.is_map() => map.sort_keys(),
            (Kind::Message(inner), Value::Array(values)) => values.iter_mut().for_each(|value| tidy(value, &inner)),
            (Kind::Message(inner), value) => tidy(value, &inner),
            _ => {}
        }
    }
}

fn shorten(document: &mut Value) {
    match document {
        Value::Number(number) => {
            let whole = number.as_f64().filter(|value| value.fract() == 0.0 && value.abs() <= MAX_EXACT);
            if let Some(whole) = whole {
                *number = Number::from(whole as i64);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(shorten),
        Value::Object(fields) => fields.values_mut().for_each(shorten),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// 2^53: beyond it not every whole number is itself.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// A message from JSON; what isn't of it is refused.
///
/// # Errors
/// The parser's, with line and column.
pub(super) fn from_json<M: Named>(text: &str) -> Result<M, serde_json::Error> {
    let unknown = || serde::de::Error::custom(format!("the contract has no {}", M::NAME));
    let descriptor = POOL.get_message_by_name(M::NAME).ok_or_else(unknown)?;
    let mut parser = Deserializer::from_str(text);
    let dynamic = DynamicMessage::deserialize_with_options(descriptor, &mut parser, &DeserializeOptions::new())?;
    parser.end()?;
    dynamic.transcode_to().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_written_in_protobufs_json() {
        let user = users::User {
            id: "01J".to_owned(),
            first_name: "Ada".to_owned(),
            create_time: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            ..users::User::default()
        };
        let json = to_json(&user);
        assert_eq!(json.to_string(), r#"{"id":"01J","firstName":"Ada","createTime":"1970-01-01T00:00:00Z"}"#);
    }

    #[test]
    fn a_document_is_read_and_written_unchanged() {
        let text = r#"{"deep":{"list":[1.5,null,"x",true]},"length_m":4.2,"n":-7}"#;
        let document = Some(from_json(text).unwrap());
        let record = records::Record { id: "a".to_owned(), document, ..records::Record::default() };
        assert_eq!(to_json(&record).to_string(), format!(r#"{{"id":"a","document":{text}}}"#));
        assert!(from_json::<prost_types::Struct>("[1]").is_err());
        assert!(from_json::<prost_types::Struct>("{} {}").is_err());
    }

    #[test]
    fn labels_are_written_in_their_order() {
        let labels = ["c", "a", "b"].map(|key| (key.to_owned(), "1".to_owned())).into();
        let json = to_json(&users::User { labels, ..users::User::default() });
        assert_eq!(json.to_string(), r#"{"labels":{"a":"1","b":"1","c":"1"}}"#);
    }

    #[test]
    fn every_named_message_is_described_by_the_contract() {
        fn described<M: Named>() -> bool {
            POOL.get_message_by_name(M::NAME).is_some()
        }
        assert!(described::<users::User>() && described::<users::UserEvent>());
        assert!(described::<records::Record>() && described::<records::RecordEvent>() && described::<records::Table>());
        assert!(described::<cluster::CheckResponse>() && described::<feed::Reset>());
        assert!(described::<cluster::FormCellResponse>() && described::<cluster::GetServersResponse>());
        assert!(described::<cluster::Server>() && described::<cluster::ServerEvent>());
        assert!(described::<cluster::TransferLeadershipResponse>());
        assert!(described::<threads::Thread>() && described::<threads::Member>() && described::<threads::Event>());
        assert!(described::<threads::Device>() && described::<threads::ThreadReset>());
    }
}
