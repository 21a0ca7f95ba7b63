//! What a node's certificate says about it.
//!
//! Common name: the node's id. Organisational unit: its role. Organisation: its
//! cluster. Parsing checks the form only; trust is TLS's part.

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use skep_model::Time;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::Role;

/// The organisational unit of managers, also one of their names.
pub const MANAGER_UNIT: &str = "swarm-manager";
/// The organisational unit of workers.
pub const WORKER_UNIT: &str = "swarm-worker";

const PEM_LENGTH_MAX: usize = 256 * 1024;

/// A node as its certificate names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The node's id.
    pub node_id: String,
    /// The role the certificate was issued for.
    pub role: Role,
    /// The cluster's id.
    pub cluster_id: String,
    /// Its first moment, whole seconds.
    pub not_before: Time,
    /// Its last moment, whole seconds.
    pub not_after: Time,
    /// The serial number, lower-case hex.
    pub serial: String,
}

/// Why a certificate is none of a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not PEM, or too long.
    #[error("no certificate in PEM form")]
    Pem,
    /// Not X.509.
    #[error("cannot read the certificate: {0}")]
    Der(String),
    /// A name is missing or there is more than one.
    #[error("its subject must have exactly one {0}")]
    Name(&'static str),
    /// The organisational unit is no role.
    #[error("its organisational unit `{0}` is no role")]
    Role(String),
    /// Its times make no sense.
    #[error("its validity ends before it begins")]
    Validity,
}

impl NodeIdentity {
    /// Reads the first certificate of a chain in PEM.
    ///
    /// # Errors
    /// If it does not read or is not a node's.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        Self::from_der(&first_certificate(pem)?)
    }

    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// If it does not read or is not a node's.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(|e| CertificateError::Der(e.to_string()))?;
        let subject = certificate.subject();
        let role = match only(subject, "organisational unit", X509Name::iter_organizational_unit)? {
            MANAGER_UNIT => Role::Manager,
            WORKER_UNIT => Role::Worker,
            other => return Err(CertificateError::Role(other.to_owned())),
        };
        let at = |time: x509_parser::time::ASN1Time| Time::ZERO + Duration::from_secs(time.timestamp().max(0) as u64);
        let validity = certificate.validity();
        let identity = Self {
            node_id: only(subject, "common name", X509Name::iter_common_name)?.to_owned(),
            role,
            cluster_id: only(subject, "organisation", X509Name::iter_organization)?.to_owned(),
            not_before: at(validity.not_before),
            not_after: at(validity.not_after),
            serial: certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        if identity.not_after <= identity.not_before {
            return Err(CertificateError::Validity);
        }
        Ok(identity)
    }

    /// When to renew: between 50 and 80 % of the life. `jitter` runs from 0 to 1
    /// and is drawn once per certificate; outside it is clamped.
    pub fn renew_at(&self, jitter: f64) -> Time {
        let jitter = if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) };
        self.not_before + self.not_after.since(self.not_before).mul_f64(0.5 + 0.3 * jitter)
    }

    /// Whether its life is over.
    pub fn is_expired(&self, now: Time) -> bool {
        now > self.not_after
    }
}

/// A renewal jitter from the operating system, 0 to 1.
///
/// # Panics
/// When the operating system has no random numbers.
pub fn random_jitter() -> f64 {
    f64::from(u32::from_le_bytes(skep_host::chance::bytes())) / f64::from(u32::MAX)
}

/// The first certificate of a PEM bundle, in DER.
pub(crate) fn first_certificate(pem: &[u8]) -> Result<CertificateDer<'static>, CertificateError> {
    if pem.len() > PEM_LENGTH_MAX {
        return Err(CertificateError::Pem);
    }
    CertificateDer::from_pem_slice(pem).map_err(|_| CertificateError::Pem)
}

/// All certificates of a PEM bundle, in DER; at least one.
pub(crate) fn all_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    if pem.len() > PEM_LENGTH_MAX {
        return Err(CertificateError::Pem);
    }
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| CertificateError::Pem)?;
    if all.is_empty() { Err(CertificateError::Pem) } else { Ok(all) }
}

fn only<'a, I>(
    name: &'a X509Name<'a>,
    what: &'static str,
    values: impl Fn(&'a X509Name<'a>) -> I,
) -> Result<&'a str, CertificateError>
where
    I: Iterator<Item = &'a AttributeTypeAndValue<'a>>,
{
    let mut values = values(name);
    match (values.next(), values.next()) {
        (Some(one), None) => one.as_str().ok().filter(|text| !text.is_empty()).ok_or(CertificateError::Name(what)),
        _ => Err(CertificateError::Name(what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::RootCa;

    #[test]
    fn renewal_falls_between_half_and_four_fifths() {
        let hour = Duration::from_secs(3600);
        let identity = NodeIdentity {
            node_id: "n".into(),
            role: Role::Worker,
            cluster_id: "c".into(),
            not_before: Time::ZERO,
            not_after: Time::ZERO + 100 * hour,
            serial: "01".into(),
        };
        for (jitter, hours) in [(0.0, 50), (1.0, 80), (0.5, 65), (-3.0, 50), (7.0, 80), (f64::NAN, 50)] {
            assert_eq!(identity.renew_at(jitter).0 / 1_000_000_000 / 3600, hours, "{jitter}");
        }
        assert!(!identity.is_expired(identity.not_after));
        assert!(identity.is_expired(identity.not_after + hour));
        assert!((0.0..=1.0).contains(&random_jitter()));
    }

    #[test]
    fn a_root_is_no_node() {
        let root = RootCa::create(Time::from_millis(1_800_000_000_000)).unwrap();
        let error = NodeIdentity::from_pem(root.certificate_pem().as_bytes()).unwrap_err();
        assert_eq!(error, CertificateError::Name("organisational unit"));
        assert_eq!(NodeIdentity::from_pem(b"hello").unwrap_err(), CertificateError::Pem);
        assert!(matches!(NodeIdentity::from_der(&[0x30, 0x80]).unwrap_err(), CertificateError::Der(_)));
    }
}
