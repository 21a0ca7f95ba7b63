//! Why an identity was not accepted, in words an operator can act on.
//!
//! TLS libraries speak of alerts and unknown issuers; this turns what they found
//! into one sentence that names the node, the time or the cluster, and what to do.

use std::error::Error;

use rustls::{AlertDescription, CertificateError};
use skep_model::Time;

use skep_host::clock::{self, readable};

/// A refused identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Neither of the cluster's two tokens matches.
    #[error(
        "A valid join token is necessary to join this cluster: this one is wrong or was rotated; \
         `skep swarm join-token worker` on a manager shows the current one"
    )]
    Token,
    /// The root certificate served is not the one the token pins.
    #[error(
        "remote CA does not match fingerprint: the manager serves a CA with digest {served}, the token expects {expected}; \
         this is another cluster, its CA was rotated, or someone is in between"
    )]
    ForeignCa {
        /// Digest of what was served, base 36.
        served: String,
        /// Digest in the token, base 36.
        expected: String,
    },
    /// The peer's certificate was signed by a CA this node does not trust.
    #[error("the peer's certificate was not issued by this cluster's CA")]
    UnknownIssuer,
    /// The certificate's life is over.
    #[error(
        "the certificate expired at {}; the clock here says {}. If the clocks agree, the node must leave and join again",
        readable(*not_after), readable(*now)
    )]
    Expired {
        /// Its last moment.
        not_after: Time,
        /// The time here.
        now: Time,
    },
    /// The certificate is not valid yet: certificates start an hour back, so the clocks differ by more.
    #[error(
        "the certificate is valid only from {}, but the clock here says {}: the clocks differ by more than an hour, set them right",
        readable(*not_before), readable(*now)
    )]
    ClockSkew {
        /// Its first moment.
        not_before: Time,
        /// The time here.
        now: Time,
    },
    /// The node was removed from the cluster.
    #[error("node {node} was removed from this cluster; run `skep swarm leave` on it, then join again with a token")]
    Removed {
        /// The removed node's id.
        node: String,
    },
    /// The peer belongs to another cluster.
    #[error("the peer belongs to cluster {found}, not to {expected}")]
    OtherCluster {
        /// The cluster in the peer's certificate.
        found: String,
        /// The cluster of this node.
        expected: String,
    },
    /// The peer is no manager, or not the node that was wanted.
    #[error("the peer is not {expected}: its certificate carries other names")]
    OtherNode {
        /// The name that was asked for.
        expected: String,
    },
    /// The peer showed something that is no certificate of a node.
    #[error("the peer's certificate is not one of a node: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// The peer refused this node's certificate and closed the connection.
    #[error("the peer refused this node's certificate: {reason}")]
    RefusedByPeer {
        /// What the peer's TLS alert means.
        reason: &'static str,
    },
}

impl Refusal {
    /// Finds the reason in an error from TLS, tonic or a connector, however deep it is wrapped.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Refusal> {
        let mut next = Some(error);
        // A chain of causes longer than this is a loop.
        for _ in 0..32 {
            let current = next?;
            if let Some(refusal) = current.downcast_ref::<Refusal>() {
                return Some(refusal.clone());
            }
            if let Some(tls) = current.downcast_ref::<rustls::Error>() {
                return of_tls(tls);
            }
            next = match current.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
                Some(inner) => Some(inner as &(dyn Error + 'static)),
                None => current.source(),
            };
        }
        None
    }
}

fn of_tls(error: &rustls::Error) -> Option<Refusal> {
    match error {
        rustls::Error::InvalidCertificate(found) => Some(of_certificate(found)),
        rustls::Error::AlertReceived(alert) => of_alert(*alert).map(|reason| Refusal::RefusedByPeer { reason }),
        rustls::Error::NoCertificatesPresented => Some(Refusal::Malformed { reason: "none was shown".into() }),
        _ => None,
    }
}

fn of_certificate(error: &CertificateError) -> Refusal {
    let seconds = |time: rustls::pki_types::UnixTime| Time::from_millis(time.as_secs().saturating_mul(1000));
    match error {
        CertificateError::ExpiredContext { time, not_after } => {
            Refusal::Expired { not_after: seconds(*not_after), now: seconds(*time) }
        }
        CertificateError::Expired => Refusal::Expired { not_after: clock::now(), now: clock::now() },
        CertificateError::NotValidYetContext { time, not_before } => {
            Refusal::ClockSkew { not_before: seconds(*not_before), now: seconds(*time) }
        }
        CertificateError::NotValidYet => Refusal::ClockSkew { not_before: clock::now(), now: clock::now() },
        // A foreign root with our root's name fails at the signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Refusal::UnknownIssuer,
        CertificateError::NotValidForName => Refusal::OtherNode { expected: "the node that was asked for".into() },
        CertificateError::NotValidForNameContext { expected, .. } => {
            Refusal::OtherNode { expected: expected.to_str().into_owned() }
        }
        other => Refusal::Malformed { reason: other.to_string() },
    }
}

fn of_alert(alert: AlertDescription) -> Option<&'static str> {
    Some(match alert {
        AlertDescription::CertificateExpired => "it has expired, or the peer's clock is wrong",
        AlertDescription::UnknownCA | AlertDescription::DecryptError | AlertDescription::BadCertificate => {
            "it was not issued by the peer's CA"
        }
        AlertDescription::CertificateRevoked => "it was revoked",
        AlertDescription::CertificateUnknown | AlertDescription::AccessDenied => "the peer does not accept it",
        AlertDescription::CertificateRequired => "the peer demands one",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_found_however_deep() {
        let tls = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let io = std::io::Error::new(std::io::ErrorKind::InvalidData, tls);
        assert_eq!(Refusal::of(&io), Some(Refusal::UnknownIssuer));
        let nested = std::io::Error::other(std::io::Error::other(Refusal::Token));
        assert_eq!(Refusal::of(&nested), Some(Refusal::Token));
        assert_eq!(Refusal::of(&std::io::Error::other("cable cut")), None);
    }

    #[test]
    fn sentences_name_what_to_do() {
        let skew = Refusal::ClockSkew { not_before: Time::from_millis(7_200_000), now: Time::ZERO };
        expect_test::expect![
            "the certificate is valid only from 1970-01-01T02:00:00Z, but the clock here says 1970-01-01T00:00:00Z: \
             the clocks differ by more than an hour, set them right"
        ]
        .assert_eq(&skew.to_string());
        assert!(Refusal::Removed { node: "n1".into() }.to_string().contains("n1 was removed"));
    }
}
