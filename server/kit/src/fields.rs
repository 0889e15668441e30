//! What is wrong with the fields of a request, gathered so that a client
//! learns all of it at once.

use crate::Error;

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

/// What a person reads.
pub(crate) fn sentence(violations: &[FieldViolation]) -> String {
    let parts = violations.iter().map(|violation| format!("{} {}", violation.field, violation.problem));
    parts.collect::<Vec<_>>().join("; ")
}
