//! Rules that every file of the contract keeps, beyond what buf lints.

mod sources;

use flotilla_proto::{
    FILE_DESCRIPTOR_SET,
    records::v1::{Record, RecordEvent, WatchRecordsResponse, watch_records_response::Item},
};
use prost::Message;
use prost_reflect::{
    DescriptorPool, ExtensionDescriptor, MethodDescriptor,
    prost_types::{
        FileDescriptorProto, Struct, Value, method_options::IdempotencyLevel, source_code_info::Location, value,
    },
};

#[test]
fn every_unary_method_has_an_http_binding_and_no_stream_has_one() {
    let pool = pool();
    let http = pool.get_extension_by_name("google.api.http").expect("the descriptors include google.api.http");
    let broken = methods(&pool)
        .filter(|method| has_binding(method, &http) != is_unary(method))
        .map(|method| method.full_name().to_owned())
        .collect::<Vec<_>>();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_method_says_whether_it_may_be_retried() {
    let pool = pool();
    let broken = methods(&pool)
        .filter(|method| idempotency(method) == IdempotencyLevel::IdempotencyUnknown)
        .map(|method| method.full_name().to_owned())
        .collect::<Vec<_>>();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_unary_method_that_changes_something_has_a_request_id_and_no_other_has() {
    let pool = pool();
    let broken = methods(&pool)
        .filter(is_unary)
        .filter(|method| {
            let changes = idempotency(method) != IdempotencyLevel::NoSideEffects;
            let request_id = method.input().get_field_by_name("request_id");
            let is_string = request_id.is_some_and(|field| field.kind() == prost_reflect::Kind::String);
            changes != is_string
        })
        .map(|method| method.full_name().to_owned())
        .collect::<Vec<_>>();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn a_browser_can_call_every_method_but_register() {
    let pool = pool();
    let client_streaming = methods(&pool)
        .filter(MethodDescriptor::is_client_streaming)
        .map(|method| method.full_name().to_owned())
        .collect::<Vec<_>>();
    assert_eq!(client_streaming, ["flotilla.discovery.v1.DiscoveryService.Register"]);
}

#[test]
fn everything_in_the_contract_has_a_comment() {
    let files = sources::compile().file_descriptor_set().file;
    let bare =
        files.iter().filter(|file| file.package().starts_with("flotilla.")).flat_map(uncommented).collect::<Vec<_>>();
    assert!(bare.is_empty(), "{bare:#?}");
}

#[test]
fn a_document_of_32_levels_can_be_read_back_by_a_client_of_prost() {
    let innermost = Value { kind: Some(value::Kind::BoolValue(true)) };
    let value = (1..32).fold(innermost, |value, _| Value { kind: Some(value::Kind::StructValue(object(value))) });
    let record = Record { document: Some(object(value)), ..Record::default() };
    let event = RecordEvent { record: Some(record), ..RecordEvent::default() };
    let response = WatchRecordsResponse { item: Some(Item::Event(event)) };

    let decoded = WatchRecordsResponse::decode(response.encode_to_vec().as_slice());
    assert_eq!(decoded, Ok(response));
}

fn object(value: Value) -> Struct {
    Struct { fields: [("a".to_owned(), value)].into() }
}

fn pool() -> DescriptorPool {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the checked-in descriptors are whole")
}

/// Methods for clients: what servers say to each other has rules of its own.
fn methods(pool: &DescriptorPool) -> impl Iterator<Item = MethodDescriptor> {
    let public = pool.services().filter(|service| service.full_name() != "flotilla.peer.v1.PeerService");
    public.flat_map(|service| service.methods().collect::<Vec<_>>())
}

fn is_unary(method: &MethodDescriptor) -> bool {
    !method.is_client_streaming() && !method.is_server_streaming()
}

fn has_binding(method: &MethodDescriptor, http: &ExtensionDescriptor) -> bool {
    method.options().has_extension(http)
}

fn idempotency(method: &MethodDescriptor) -> IdempotencyLevel {
    let options = method.method_descriptor_proto().options.as_ref();
    options.map_or(IdempotencyLevel::IdempotencyUnknown, |options| options.idempotency_level())
}

/// `file:line` of everything that a reader meets (services, methods, messages, fields, oneofs, enums
/// and their values) and that nothing is said about.
fn uncommented(file: &FileDescriptorProto) -> Vec<String> {
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    locations
        .filter(|location| is_documented_element(&location.path) && location.leading_comments().trim().is_empty())
        .map(|location| format!("{}:{}", file.name(), line(location)))
        .collect()
}

/// Whether a path of field numbers, as `SourceCodeInfo` has them, leads to an element of its own:
/// pairs of a repeated field and an index, from `FileDescriptorProto` down.
fn is_documented_element(path: &[i32]) -> bool {
    /// What the path has come to so far.
    #[derive(Clone, Copy)]
    enum Place {
        File,
        Message,
        Enum,
        Service,
        Leaf,
    }
    let (pairs, rest) = path.as_chunks::<2>();
    let place = pairs.iter().try_fold(Place::File, |place, [field, _]| match (place, field) {
        (Place::File, 4) | (Place::Message, 3) => Some(Place::Message),
        (Place::File, 5) | (Place::Message, 4) => Some(Place::Enum),
        (Place::File, 6) => Some(Place::Service),
        // Fields and oneofs, values, methods.
        (Place::Message, 2 | 8) | (Place::Enum | Place::Service, 2) => Some(Place::Leaf),
        _ => None,
    });
    rest.is_empty() && !pairs.is_empty() && place.is_some()
}

fn line(location: &Location) -> i32 {
    location.span.first().map_or(0, |line| line + 1)
}
