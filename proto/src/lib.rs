//! The contract: Flotilla's `.proto` files and the Rust code made from them, and nothing else.
//!
//! # Layout
//!
//! * `flotilla/<service>/v1/<service>.proto` are the sources; their comments are the documentation
//!   of the API. The directory is the package: `flotilla.users.v1` is [`users::v1`] here.
//! * `src/gen/` is generated, checked in, and never edited. `tests/bootstrap.rs` holds it equal to
//!   the sources and rewrites it when it isn't; there is no `build.rs` and no `protoc`.
//! * `google/api/` is vendored from googleapis for the HTTP bindings.
//!
//! Well-known types are those of `prost_types`, maps are `BTreeMap`s, and `bytes` of the storage
//! package are [`prost::bytes::Bytes`].

mod reason;

pub use reason::ERROR_DOMAIN;

#[allow(missing_docs, unreachable_pub, clippy::all, rustdoc::all)]
mod generated {
    include!("gen/mod.rs");
}

#[doc(inline)]
pub use generated::*;

/// An encoded `google.protobuf.FileDescriptorSet` of all packages and everything they import, with
/// their HTTP bindings and without comments: for server reflection, JSON, and Envoy's transcoder.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/descriptor.bin");
