//! How a [`Reason`] travels: as `google.rpc.ErrorInfo`, by name. Which status code belongs to which
//! reason is not decided here.

use crate::errors::v1::Reason;

/// `ErrorInfo.domain` of every error that Flotilla makes.
pub const ERROR_DOMAIN: &str = "flotilla.dev";

const PREFIX: &str = "REASON_";

impl Reason {
    /// `ErrorInfo.reason` for this reason: `EMAIL_TAKEN` for [`Reason::EmailTaken`].
    pub fn wire_name(self) -> &'static str {
        let name = self.as_str_name();
        name.strip_prefix(PREFIX).unwrap_or(name)
    }

    /// The reason that [`wire_name`](Self::wire_name) gives as `name`; none for a name that this
    /// build doesn't know.
    pub fn from_wire_name(name: &str) -> Option<Self> {
        Self::from_str_name(&format!("{PREFIX}{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_travels_without_its_prefix_and_is_recognised_again() {
        assert_eq!(Reason::EmailTaken.wire_name(), "EMAIL_TAKEN");
        assert_eq!(Reason::from_wire_name("EMAIL_TAKEN"), Some(Reason::EmailTaken));
        assert_eq!(Reason::from_wire_name("REASON_EMAIL_TAKEN"), None);
        assert_eq!(Reason::from_wire_name("OF_A_LATER_VERSION"), None);
    }
}
