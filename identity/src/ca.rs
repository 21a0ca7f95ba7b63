//! The root CA and what it signs.
//!
//! A self-signed ECDSA P-256 root, CN `swarm-ca`, 20 years, as Swarm's. Of a
//! signing request only the public key is used: names, role and life come from the
//! manager's own store. Private keys here are PKCS#8 in types that zeroize.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use skep_model::Time;
use zeroize::Zeroize;

use crate::certificate::{MANAGER_UNIT, WORKER_UNIT, first_certificate};
use crate::token::RootDigest;
use crate::{Role, SecretBytes};
use skep_host::clock;

/// The root's common name, also a name of every manager.
pub const ROOT_NAME: &str = "swarm-ca";
/// How long a new root is valid: 20 years of 365 days, as Swarm's.
pub const ROOT_VALIDITY: Duration = Duration::from_secs(630_720_000);
/// How long a node's certificate is valid unless the cluster says otherwise.
pub const NODE_VALIDITY: Duration = Duration::from_secs(90 * 24 * 3600);
/// The shortest life a node's certificate may have.
pub const NODE_VALIDITY_MIN: Duration = Duration::from_secs(3600);
/// Certificates begin this long before they are made, so that clocks may differ by as much.
pub const BACKDATE: Duration = Duration::from_secs(3600);

const CSR_LENGTH_MAX: usize = 16 * 1024;

/// Why the CA could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A private key could not be made.
    #[error("cannot make a P-256 key")]
    MakeKey(#[source] rcgen::Error),
    /// A stored private key does not read.
    #[error("cannot read the {0} private key")]
    ReadKey(&'static str, #[source] rcgen::Error),
    /// A root certificate does not read.
    #[error("cannot read the root CA certificate: {0}")]
    ReadRoot(String),
    /// The stored key is not the one of the stored root.
    #[error("the root CA's private key does not belong to its certificate")]
    KeyMismatch,
    /// The root certificate could not be made.
    #[error("cannot make a root CA certificate")]
    MakeRoot(#[source] rcgen::Error),
    /// A signing request could not be made.
    #[error("cannot make a certificate signing request")]
    MakeRequest(#[source] rcgen::Error),
    /// A signing request is too long.
    #[error("the certificate signing request has {0} bytes; {CSR_LENGTH_MAX} are allowed")]
    RequestTooLong(usize),
    /// A signing request does not read, or its signature is wrong.
    #[error("the certificate signing request is invalid")]
    Request(#[source] rcgen::Error),
    /// A signing request with another kind of key.
    #[error("the certificate signing request must carry an ECDSA P-256 key")]
    RequestKey,
    /// The life asked for is too short.
    #[error("minimum certificate expiry time is: 1h0m0s")]
    Validity,
    /// A name that cannot stand in a certificate.
    #[error("`{0}` cannot be a name in a certificate")]
    Name(String),
    /// Signing failed.
    #[error("cannot sign the certificate of node {node}")]
    Sign {
        /// The node it was for.
        node: String,
        /// The cause.
        #[source]
        source: rcgen::Error,
    },
}

/// A node's private key, ECDSA P-256.
pub struct NodeKey {
    pkcs8: SecretBytes,
}

impl NodeKey {
    /// A new key.
    ///
    /// # Errors
    /// If the operating system gives no random numbers.
    pub fn generate() -> Result<Self, CaError> {
        let mut pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CaError::MakeKey)?;
        let pkcs8 = SecretBytes::copy_of(pair.serialized_der());
        pair.zeroize();
        Ok(Self { pkcs8 })
    }

    /// A key from its PKCS#8 form.
    ///
    /// # Errors
    /// If it is no P-256 key.
    pub fn from_pkcs8(pkcs8: SecretBytes) -> Result<Self, CaError> {
        pair_of("node", &pkcs8)?;
        Ok(Self { pkcs8 })
    }

    /// The PKCS#8 form, for the keystore.
    pub fn pkcs8(&self) -> &SecretBytes {
        &self.pkcs8
    }

    /// A signing request in DER. It names nothing: the CA uses its key alone.
    ///
    /// # Errors
    /// If signing fails.
    pub fn signing_request(&self) -> Result<Vec<u8>, CaError> {
        let pair = pair_of("node", &self.pkcs8)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&*pair).map_err(CaError::MakeRequest)?;
        Ok(request.der().to_vec())
    }
}

/// What the CA writes into a node's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue<'a> {
    /// The node's id, the common name.
    pub node_id: &'a str,
    /// Its role, the organisational unit.
    pub role: Role,
    /// The cluster's id, the organisation.
    pub cluster_id: &'a str,
    /// The time of signing.
    pub now: Time,
    /// The life from now on, at least [`NODE_VALIDITY_MIN`].
    pub validity: Duration,
}

/// The cluster's root CA with its private key.
pub struct RootCa {
    certificate_pem: String,
    key: ZeroizingPair,
}

impl RootCa {
    /// A new root, valid for [`ROOT_VALIDITY`].
    ///
    /// # Errors
    /// If the operating system gives no random numbers.
    pub fn create(now: Time) -> Result<Self, CaError> {
        let key = ZeroizingPair(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CaError::MakeKey)?);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, ROOT_NAME);
        (params.not_before, params.not_after) = (stamp(now - BACKDATE), stamp(now + ROOT_VALIDITY));
        params.serial_number = Some(random_serial());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&*key).map_err(CaError::MakeRoot)?;
        Ok(Self { certificate_pem: unix_lines(&certificate.pem()), key })
    }

    /// The root again from its certificate and the key of [`RootCa::key_pkcs8`].
    ///
    /// # Errors
    /// If either does not read, or they do not belong together.
    pub fn restore(certificate_pem: &str, key_pkcs8: &[u8]) -> Result<Self, CaError> {
        let der = first_certificate(certificate_pem.as_bytes()).map_err(|e| CaError::ReadRoot(e.to_string()))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|e| CaError::ReadRoot(e.to_string()))?;
        let key = pair_of("root CA", key_pkcs8)?;
        if *parsed.public_key().subject_public_key.data != *key.public_key_raw() {
            return Err(CaError::KeyMismatch);
        }
        Ok(Self { certificate_pem: certificate_pem.to_owned(), key })
    }

    /// The certificate in PEM: what joining nodes fetch and tokens pin.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key in PKCS#8, to be sealed.
    pub fn key_pkcs8(&self) -> SecretBytes {
        SecretBytes::copy_of(self.key.serialized_der())
    }

    /// What join tokens pin.
    pub fn digest(&self) -> RootDigest {
        RootDigest::of(self.certificate_pem.as_bytes())
    }

    /// Signs a certificate for the public key in a signing request (DER) and gives
    /// the chain in PEM. Everything else in the request is ignored.
    ///
    /// # Errors
    /// If the request does not read or prove possession of its key, the key is not
    /// P-256, or the life is too short.
    pub fn sign_csr(&self, request_der: &[u8], issue: &Issue<'_>) -> Result<String, CaError> {
        if issue.validity < NODE_VALIDITY_MIN {
            return Err(CaError::Validity);
        }
        let request = read_csr(request_der)?;
        let der = first_certificate(self.certificate_pem.as_bytes()).map_err(|e| CaError::ReadRoot(e.to_string()))?;
        let sign = |source| CaError::Sign { node: issue.node_id.to_owned(), source };
        let issuer = Issuer::from_ca_cert_der(&der, &*self.key).map_err(sign)?;
        let certificate = node_params(issue)?.signed_by(&request.public_key, &issuer).map_err(sign)?;
        Ok(unix_lines(&certificate.pem()))
    }
}

/// Checks a signing request (DER): that it reads, proves possession of its key, and
/// that the key is P-256.
///
/// # Errors
/// What it lacks.
pub fn check_csr(request_der: &[u8]) -> Result<(), CaError> {
    read_csr(request_der).map(drop)
}

fn read_csr(request_der: &[u8]) -> Result<CertificateSigningRequestParams, CaError> {
    if request_der.len() > CSR_LENGTH_MAX {
        return Err(CaError::RequestTooLong(request_der.len()));
    }
    let request =
        CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request_der)).map_err(CaError::Request)?;
    if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
        return Err(CaError::RequestKey);
    }
    Ok(request)
}

fn node_params(issue: &Issue<'_>) -> Result<CertificateParams, CaError> {
    let unit = match issue.role {
        Role::Manager => MANAGER_UNIT,
        Role::Worker => WORKER_UNIT,
    };
    // 64 is the longest name X.509 allows.
    for name in [issue.node_id, issue.cluster_id] {
        if name.is_empty() || name.len() > 64 || !name.is_ascii() {
            return Err(CaError::Name(name.to_owned()));
        }
    }
    let mut names = vec![unit, issue.node_id];
    if issue.role == Role::Manager {
        names.push(ROOT_NAME);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, issue.cluster_id);
    params.distinguished_name.push(DnType::OrganizationalUnitName, unit);
    params.distinguished_name.push(DnType::CommonName, issue.node_id);
    for name in names {
        let name = name.try_into().map_err(|_| CaError::Name(name.to_owned()))?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    (params.not_before, params.not_after) = (stamp(issue.now - BACKDATE), stamp(issue.now + issue.validity));
    params.serial_number = Some(random_serial());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// The end of a key pair wipes its serialised form; what the signing code holds
/// inside is beyond our reach.
struct ZeroizingPair(KeyPair);

impl Drop for ZeroizingPair {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::ops::Deref for ZeroizingPair {
    type Target = KeyPair;

    fn deref(&self) -> &KeyPair {
        &self.0
    }
}

fn pair_of(whose: &'static str, pkcs8: &[u8]) -> Result<ZeroizingPair, CaError> {
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8), &PKCS_ECDSA_P256_SHA256)
        .map(ZeroizingPair)
        .map_err(|source| CaError::ReadKey(whose, source))
}

/// 16 random bytes, the top bit clear (positive) and the next set (always 16 long).
fn random_serial() -> SerialNumber {
    let mut serial: [u8; 16] = skep_host::chance::bytes();
    serial[0] = serial[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&serial)
}

/// Certificates count whole seconds.
fn stamp(time: Time) -> time::OffsetDateTime {
    time::OffsetDateTime::UNIX_EPOCH + Duration::from_secs(clock::unix_seconds(time))
}

/// PEM with plain line ends, so that a digest does not depend on the writer.
fn unix_lines(pem: &str) -> String {
    pem.replace("\r\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeIdentity;

    const NOW: Time = Time::from_millis(1_800_000_000_000);

    fn issue(role: Role) -> Issue<'static> {
        Issue { node_id: "node1", role, cluster_id: "cluster1", now: NOW, validity: NODE_VALIDITY }
    }

    #[test]
    fn a_signed_certificate_carries_what_the_ca_says() {
        let root = RootCa::create(NOW).unwrap();
        for role in [Role::Manager, Role::Worker] {
            let request = NodeKey::generate().unwrap().signing_request().unwrap();
            let pem = root.sign_csr(&request, &issue(role)).unwrap();
            let identity = NodeIdentity::from_pem(pem.as_bytes()).unwrap();
            assert_eq!((identity.node_id.as_str(), identity.cluster_id.as_str()), ("node1", "cluster1"));
            assert_eq!(identity.role, role);
            assert_eq!(identity.not_before, NOW - BACKDATE);
            assert_eq!(identity.not_after, NOW + NODE_VALIDITY);
            assert!(!pem.contains(char::from(13)));
        }
    }

    #[test]
    fn names_in_a_request_are_ignored() {
        let root = RootCa::create(NOW).unwrap();
        let pair = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["swarm-manager".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "someone-else");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let request = params.serialize_request(&pair).unwrap();
        let pem = root.sign_csr(request.der(), &issue(Role::Worker)).unwrap();
        let der = first_certificate(pem.as_bytes()).unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert!(!certificate.is_ca());
        let names = format!("{:?}", certificate.subject_alternative_name().unwrap().unwrap().value);
        assert!(names.contains("node1") && names.contains("swarm-worker"), "{names}");
        assert!(!names.contains("swarm-manager"), "{names}");
        assert_eq!(NodeIdentity::from_pem(pem.as_bytes()).unwrap().node_id, "node1");
    }

    #[test]
    fn bad_requests_are_refused() {
        let root = RootCa::create(NOW).unwrap();
        let good = NodeKey::generate().unwrap().signing_request().unwrap();
        let mut forged = good.clone();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        let other_kind = {
            let pair = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
            CertificateParams::default().serialize_request(&pair).unwrap().der().to_vec()
        };
        let check = |request: &[u8], issue: Issue<'_>, expect: &str| {
            let error = root.sign_csr(request, &issue).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check(b"", issue(Role::Worker), "request is invalid");
        check(&vec![0; CSR_LENGTH_MAX + 1], issue(Role::Worker), "are allowed");
        check(&forged, issue(Role::Worker), "request is invalid");
        check(&other_kind, issue(Role::Worker), "P-256");
        check(&good, Issue { validity: Duration::from_secs(3599), ..issue(Role::Worker) }, "minimum certificate expiry");
        check(&good, Issue { node_id: "nöde", ..issue(Role::Worker) }, "cannot be a name");
        check(&good, Issue { node_id: "", ..issue(Role::Worker) }, "cannot be a name");
    }

    #[test]
    fn a_root_is_restored_and_signs_on() {
        let root = RootCa::create(NOW).unwrap();
        let again = RootCa::restore(root.certificate_pem(), &root.key_pkcs8()).unwrap();
        assert_eq!(again.digest(), root.digest());
        let request = NodeKey::generate().unwrap().signing_request().unwrap();
        again.sign_csr(&request, &issue(Role::Worker)).unwrap();
        let other = RootCa::create(NOW).unwrap();
        let mixed = RootCa::restore(root.certificate_pem(), &other.key_pkcs8());
        assert!(matches!(mixed, Err(CaError::KeyMismatch)));
    }

    #[test]
    fn a_root_lives_twenty_years() {
        let root = RootCa::create(NOW).unwrap();
        let der = first_certificate(root.certificate_pem().as_bytes()).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert!(parsed.is_ca());
        assert_eq!(parsed.subject().to_string(), "CN=swarm-ca");
        let end = parsed.validity().not_after.timestamp() as u64;
        assert_eq!(end, clock::unix_seconds(NOW) + 630_720_000);
    }
}
