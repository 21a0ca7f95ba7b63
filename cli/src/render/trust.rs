//! The root of trust of a cluster, as docker's `TLSInfo` has it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use skep_docker::TrustRoot;
use x509_parser::pem::parse_x509_pem;

/// The root of a root certificate; `None` if that cannot be read.
pub fn root(certificate: &str) -> Option<TrustRoot> {
    let (_, pem) = parse_x509_pem(certificate.as_bytes()).ok()?;
    let parsed = pem.parse_x509().ok()?;
    Some(TrustRoot {
        certificate: certificate.to_owned(),
        subject: STANDARD.encode(parsed.subject().as_raw()),
        public_key: STANDARD.encode(parsed.public_key().raw),
    })
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
        let found = root(CERTIFICATE).expect("a certificate");
        assert_eq!(found.subject, "MBMxETAPBgNVBAMTCHN3YXJtLWNh");
        let key = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEWrwMsEhOPj8Gv5IT1RXGzheZjPmf5kEBHKLhj5XtvVOHRB054mUbyN0mhD/rTeEHErN2By1UAUIpZ2DMuyOkBw==";
        assert_eq!(found.public_key, key);
        assert_eq!((root(""), root("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n")), (None, None));
    }
}
