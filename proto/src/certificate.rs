//! What a node that wants a certificate sends: the one input of callers that
//! nobody knows yet, so its limits are narrow.

use crate::Malformed;
use crate::limits::{CSR_MAX, HOSTNAME_MAX, TOKEN_MAX};
use crate::v1::{self, Confidential};
use crate::wire::{at_most, field};
use skep_model::node::Availability;

/// A request for a certificate.
#[derive(Debug)]
pub struct Issue {
    /// PEM; only its public key is to be used.
    pub csr: String,
    /// A join token; `None` for a node that shows a certificate.
    pub token: Option<Confidential>,
    /// Availability asked for with a first certificate.
    pub availability: Availability,
    /// Host name, for messages.
    pub hostname: String,
}

impl TryFrom<v1::IssueRequest> for Issue {
    type Error = Malformed;

    fn try_from(wire: v1::IssueRequest) -> Result<Self, Malformed> {
        at_most("csr", wire.csr.len(), CSR_MAX, "bytes")?;
        at_most("hostname", wire.hostname.len(), HOSTNAME_MAX, "bytes")?;
        at_most("token", wire.token.as_ref().map_or(0, |token| token.value.len()), TOKEN_MAX, "bytes")?;
        if wire.csr.is_empty() {
            return Err(Malformed::missing().within("csr"));
        }
        let availability: Option<Availability> = field("availability", wire.availability)?;
        Ok(Self { csr: wire.csr, token: wire.token, availability: availability.unwrap_or_default(), hostname: wire.hostname })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_kept_short() {
        let good = || v1::IssueRequest { csr: "csr".into(), ..Default::default() };
        let table = [
            (good(), None),
            (v1::IssueRequest::default(), Some("csr")),
            (v1::IssueRequest { csr: "x".repeat(CSR_MAX + 1), ..good() }, Some("csr")),
            (v1::IssueRequest { token: Some(Confidential::new(vec![0; TOKEN_MAX + 1])), ..good() }, Some("token")),
            (v1::IssueRequest { hostname: "x".repeat(HOSTNAME_MAX + 1), ..good() }, Some("hostname")),
            (v1::IssueRequest { availability: Some(9), ..good() }, Some("availability")),
        ];
        for (wire, field) in table {
            assert_eq!(Issue::try_from(wire).err().map(|error| error.field).as_deref(), field);
        }
    }
}
