//! What a node shows to others, and whom it trusts.

use std::sync::{Arc, RwLock};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, InconsistentKeys, RootCertStore, ServerConfig};

use super::clock::WallClock;
use crate::certificate::{CertificateError, all_certificates};
use crate::{NodeIdentity, SecretBytes};

/// Why an identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The node's own certificate does not read.
    #[error("cannot use this node's certificate")]
    Certificate(#[source] CertificateError),
    /// The root certificates do not read.
    #[error("cannot use the root certificates")]
    Roots(#[source] CertificateError),
    /// A root is not fit to be one.
    #[error("cannot trust a root certificate")]
    Root(#[source] rustls::Error),
    /// The key does not belong to the certificate, or TLS takes neither.
    #[error("cannot use this node's certificate and key for TLS")]
    Config(#[source] rustls::Error),
    /// The verifier of client certificates cannot be made.
    #[error("cannot verify client certificates")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

/// Certificate, key and roots, as the keystore has them.
pub struct Material<'a> {
    /// The node's certificate chain, PEM.
    pub chain_pem: &'a str,
    /// Its private key, PKCS#8.
    pub key_pkcs8: &'a SecretBytes,
    /// The roots to trust, PEM; several while the CA is being rotated.
    pub roots_pem: &'a str,
}

/// A node's TLS identity; clones share it and see every update.
#[derive(Clone)]
pub struct TlsIdentity {
    current: Arc<RwLock<Arc<Current>>>,
}

pub(super) struct Current {
    pub(super) node: NodeIdentity,
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
}

impl TlsIdentity {
    /// An identity from its parts.
    ///
    /// # Errors
    /// If a part does not read, or they do not belong together.
    pub fn new(material: &Material<'_>) -> Result<Self, TlsError> {
        Ok(Self { current: Arc::new(RwLock::new(Arc::new(Current::new(material)?))) })
    }

    /// Swaps certificate, key and roots for all handshakes from now on. Open
    /// connections stay; whoever must lose one is closed by its registry.
    ///
    /// # Errors
    /// As for [`TlsIdentity::new`]; the old identity then stays.
    pub fn update(&self, material: &Material<'_>) -> Result<(), TlsError> {
        let next = Arc::new(Current::new(material)?);
        *self.current.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = next;
        Ok(())
    }

    /// Who this node is, as its present certificate says.
    pub fn node(&self) -> NodeIdentity {
        self.current().node.clone()
    }

    pub(super) fn current(&self) -> Arc<Current> {
        self.current.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

impl Current {
    fn new(material: &Material<'_>) -> Result<Self, TlsError> {
        let chain = all_certificates(material.chain_pem.as_bytes()).map_err(TlsError::Certificate)?;
        let node = NodeIdentity::from_der(&chain[0]).map_err(TlsError::Certificate)?;
        let roots = Arc::new(root_store(material.roots_pem)?);
        let key = Arc::new(SingleCertAndKey::from(certified(&chain, material.key_pkcs8).map_err(TlsError::Config)?));
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .allow_unauthenticated()
            .build()
            .map_err(TlsError::Verifier)?;
        let mut server = ServerConfig::builder_with_details(provider(), Arc::new(WallClock))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(TlsError::Config)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(key.clone());
        server.alpn_protocols = vec![b"h2".to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let client = ClientConfig::builder_with_details(provider(), Arc::new(WallClock))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(TlsError::Config)?
            .with_root_certificates(roots)
            .with_client_cert_resolver(key);
        Ok(Self { node, server: Arc::new(server), client: Arc::new(client_settings(client)) })
    }
}

/// Chain and key, which must belong together. The key is read from its locked pages, without a copy of its bytes; what the
/// library makes of it, a number of its own, is in ordinary memory of this process, which forbids dumps and tracing.
fn certified(chain: &[CertificateDer<'static>], key: &SecretBytes) -> Result<CertifiedKey, rustls::Error> {
    let key = any_supported_type(&PrivateKeyDer::from(PrivatePkcs8KeyDer::from(&key[..])))?;
    let certified = CertifiedKey::new(chain.to_vec(), key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(error) => Err(error),
    }
}

/// A client without a certificate of its own that trusts these roots.
pub(super) fn anonymous_client(roots_pem: &str) -> Result<ClientConfig, TlsError> {
    let client = ClientConfig::builder_with_details(provider(), Arc::new(WallClock))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(TlsError::Config)?
        .with_root_certificates(root_store(roots_pem)?)
        .with_no_client_auth();
    Ok(client_settings(client))
}

pub(super) fn client_settings(mut client: ClientConfig) -> ClientConfig {
    client.alpn_protocols = vec![b"h2".to_vec()];
    client.resumption = Resumption::disabled();
    client
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn root_store(pem: &str) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for root in all_certificates(pem.as_bytes()).map_err(TlsError::Roots)? {
        store.add(root).map_err(TlsError::Root)?;
    }
    Ok(store)
}
