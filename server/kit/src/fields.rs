//! What is wrong with the fields of a request, gathered so that a client
//! learns all of it at once.

use ulid::Ulid;

use crate::Error;

/// Bytes of a name.
const MAX_NAME: usize = 256;

/// One field, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// The field's path in the request, or a metadata key.
    pub field: String,
    /// What is wrong, to be read after the field's name.
    pub problem: String,
}

impl FieldViolation {
    /// A field, and what is wrong with it.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

/// Violations found so far.
#[derive(Debug, Default)]
pub struct Violations(Vec<FieldViolation>);

impl Violations {
    /// Notes what is wrong with a field.
    pub fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.0.push(FieldViolation::new(field, problem));
    }

    /// Takes a value out of a check, or notes what is wrong with its field.
    pub fn check<T: Default>(&mut self, checked: Result<T, FieldViolation>) -> T {
        checked.unwrap_or_else(|violation| {
            self.0.push(violation);
            T::default()
        })
    }

    /// Ends the checks of a request.
    ///
    /// # Errors
    /// [`Error::InvalidFields`] if anything was noted.
    pub fn finish(self) -> Result<(), Error> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(Error::InvalidFields(self.0)),
        }
    }
}

/// A name that people read, or the beginning of one; it may be empty.
///
/// # Errors
/// If it is longer than 256 bytes, or has a control character.
pub fn name(field: &str, name: &str) -> Result<(), FieldViolation> {
    if name.len() > MAX_NAME {
        let problem = format!("is {} bytes long; at most {MAX_NAME} are possible", name.len());
        return Err(FieldViolation::new(field, problem));
    }
    match name.chars().any(char::is_control) {
        true => Err(FieldViolation::new(field, "has a control character")),
        false => Ok(()),
    }
}

/// An id that a server has made. `what` is what it is of: "user".
///
/// # Errors
/// If it is no ULID in its one canonical writing: ids are compared as text.
pub fn id(field: &str, what: &str, id: &str) -> Result<(), FieldViolation> {
    match Ulid::from_string(id) {
        Ok(ulid) if ulid.to_string() == id => Ok(()),
        _ => {
            let problem = format!("is no id of a {what}: it is a ULID, 26 characters of 0-9 and A-Z");
            Err(FieldViolation::new(field, problem))
        }
    }
}

/// What a person reads.
pub(crate) fn sentence(violations: &[FieldViolation]) -> String {
    let parts = violations.iter().map(|violation| format!("{} {}", violation.field, violation.problem));
    parts.collect::<Vec<_>>().join("; ")
}
