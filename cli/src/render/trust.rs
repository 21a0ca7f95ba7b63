//! The root of trust of a cluster, as docker's `TLSInfo` has it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::pem::parse_x509_pem;

/// What the certificates of a cluster's nodes are signed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustRoot {
    /// The root certificate, PEM.
    pub certificate: String,
    /// Its subject, DER in base64.
    pub subject: String,
    /// Its public key with the algorithm (SubjectPublicKeyInfo), DER in base64.
    pub public_key: String,
}

impl TrustRoot {
    /// Of a root certificate; `None` if it is none that can be read.
    pub fn of(certificate: &str) -> Option<Self> {
        let (_, pem) = parse_x509_pem(certificate.as_bytes()).ok()?;
        let parsed = pem.parse_x509().ok()?;
        Some(Self {
            certificate: certificate.to_owned(),
            subject: STANDARD.encode(parsed.subject().as_raw()),
            public_key: STANDARD.encode(parsed.public_key().raw),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The certificate, subject and key that docker shows together.
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBajCCARCgAwIBAgIUA1092cpC5r3fCVpEOpj16Sl1FVYwCgYIKoZIzj0EAwIw
EzERMA8GA1UEAxMIc3dhcm0tY2EwHhcNMjYxMTI5MTQxNjAwWhcNNDYxMTI0MTQx
NjAwWjATMREwDwYDVQQDEwhzd2FybS1jYTBZMBMGByqGSM49AgEGCCqGSM49AwEH
A0IABFq8DLBITj4/Br+SE9UVxs4XmYz5n+ZBARyi4Y+V7b1Th0QdOeJlG8jdJoQ/
603hBxKzdgctVAFCKWdgzLsjpAejQjBAMA4GA1UdDwEB/wQEAwIBBjAPBgNVHRMB
Af8EBTADAQH/MB0GA1UdDgQWBBTQCAO4zG1uAq0EijguCWaGJ0ibUDAKBggqhkjO
PQQDAgNIADBFAiEAxQ6VOj8R4chflApJHBVWF8MdjYnEH9ZwdUOlFP9BcAkCICcs
tiK0WQJYpSFwagMJOK+g3QSKNDI+5k6h5Xsqrpj6
-----END CERTIFICATE-----
";

    #[test]
    fn a_root_is_shown_as_docker_shows_it() {
        let root = TrustRoot::of(CERTIFICATE).expect("a certificate");
        assert_eq!(root.subject, "MBMxETAPBgNVBAMTCHN3YXJtLWNh");
        let key = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEWrwMsEhOPj8Gv5IT1RXGzheZjPmf5kEBHKLhj5XtvVOHRB054mUbyN0mhD/rTeEHErN2By1UAUIpZ2DMuyOkBw==";
        assert_eq!(root.public_key, key);
        assert_eq!(
            (TrustRoot::of(""), TrustRoot::of("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n")),
            (None, None)
        );
    }
}
