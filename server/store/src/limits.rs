//! The sizes that a transaction may have. One file, so that nobody has to
//! search for the number that refused them.

/// Operations and conditions of one transaction, each.
pub const MAX_OPERATIONS: usize = 1_000;
/// Bytes of a row's key.
pub const MAX_KEY: usize = 1024;
/// Bytes of a table's name.
pub const MAX_TABLE: usize = 128;
/// Bytes of a row's value.
pub const MAX_VALUE: usize = 1024 * 1024;
/// Bytes of an encoded transaction.
pub const MAX_TRANSACTION: usize = 4 * 1024 * 1024;
/// Bytes of the answer that is kept for the retry of a request.
pub const MAX_ANSWER: usize = 4 * 1024;
