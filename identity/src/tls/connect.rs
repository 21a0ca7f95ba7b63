//! Channels to managers.
//!
//! A member shows its certificate and checks the manager's: roots, name, role and
//! cluster. A joiner has neither: it first fetches the root from a manager it
//! cannot know ([`RootFetch`], which never gets to see a token), compares the
//! digest with its token ([`PinnedRoot`]), and only then connects to send it.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::accept::peer_node;
use super::clock::WallClock;
use super::identity::{anonymous_client, client_settings, provider};
use super::{CONNECT_DEADLINE, TlsError, TlsIdentity, with_deadlines};
use crate::Refusal;
use crate::certificate::MANAGER_UNIT;
use crate::token::{JoinToken, RootDigest};

/// Connects to a manager over TLS; the tower service that tonic's
/// `connect_with_connector` takes. Addresses are `http://host:port`: the TLS is here.
#[derive(Clone)]
pub struct Connector {
    as_whom: AsWhom,
    server_name: String,
    /// The address it connects from, where that is not left to the kernel.
    from: Option<IpAddr>,
}

#[derive(Clone)]
enum AsWhom {
    Member(TlsIdentity),
    Anonymous(Arc<ClientConfig>),
}

impl Connector {
    /// As a member of the cluster, to any manager.
    pub fn member(identity: TlsIdentity) -> Self {
        Self::of(AsWhom::Member(identity))
    }

    /// As a stranger: without a certificate, to whoever is there. What is said over it
    /// may be heard by anybody.
    pub fn stranger() -> Self {
        Self::of(AsWhom::Anonymous(Arc::new(trusting_client())))
    }

    fn of(as_whom: AsWhom) -> Self {
        Self { as_whom, server_name: MANAGER_UNIT.to_owned(), from: None }
    }

    /// From this address.
    #[must_use]
    pub fn bound_to(mut self, address: IpAddr) -> Self {
        self.from = Some(address);
        self
    }

    /// To the one node with this id instead of any manager.
    #[must_use]
    pub fn to_node(mut self, node_id: &str) -> Self {
        self.server_name = node_id.to_owned();
        self
    }

    /// A channel to `address` (`host:port`) that connects on first use and again after a loss.
    ///
    /// # Errors
    /// If the address is none.
    pub fn channel(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        Ok(endpoint(address)?.connect_with_connector_lazy(self.clone()))
    }

    /// A channel to `address` (`host:port`) that is connected.
    ///
    /// # Errors
    /// If it cannot be reached in time, or is not who it should be: see [`Refusal::of`].
    pub async fn connect(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        endpoint(address)?.connect_with_connector(self.clone()).await
    }

    /// One TLS connection to `host:port`, without HTTP.
    ///
    /// # Errors
    /// If it cannot be reached in time, or is not who it should be: see [`Refusal::of`].
    pub async fn open(&self, address: &str) -> io::Result<TlsStream<TcpStream>> {
        timeout(CONNECT_DEADLINE, self.open_without_deadline(address))
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {address}"))))
    }

    async fn open_without_deadline(&self, address: &str) -> io::Result<TlsStream<TcpStream>> {
        let (config, cluster_id) = match &self.as_whom {
            AsWhom::Member(identity) => {
                let current = identity.current();
                (current.client.clone(), Some(current.node.cluster_id.clone()))
            }
            AsWhom::Anonymous(config) => (config.clone(), None),
        };
        let name = ServerName::try_from(self.server_name.clone()).map_err(io::Error::other)?;
        let tcp = match self.from {
            Some(from) => connect_from(from, address).await?,
            None => TcpStream::connect(address).await?,
        };
        tcp.set_nodelay(true)?;
        let stream = TlsConnector::from(config).connect(name, tcp).await?;
        if let Some(cluster_id) = cluster_id {
            let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let certificate = certificate.ok_or_else(|| io::Error::other(rustls::Error::NoCertificatesPresented))?;
            peer_node(certificate, &cluster_id)?;
        }
        Ok(stream)
    }
}

async fn connect_from(from: IpAddr, address: &str) -> io::Result<TcpStream> {
    let socket = if from.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(address.parse().map_err(io::Error::other)?).await
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let authority = uri.authority().ok_or(io::ErrorKind::InvalidInput)?;
            connector.open(authority.as_str()).await.map(TokioIo::new)
        })
    }
}

fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    Endpoint::from_shared(format!("http://{address}")).map(with_deadlines)
}

/// The first step of a join: a channel to a manager nobody vouches for. Only the
/// public root certificate may be asked over it.
pub struct RootFetch(Channel);

impl RootFetch {
    /// Connects to `address` (`host:port`) and accepts whatever certificate it shows.
    ///
    /// # Errors
    /// If it cannot be reached in time.
    pub async fn connect(address: &str) -> Result<Self, tonic::transport::Error> {
        Ok(Self(Connector::stranger().connect(address).await?))
    }

    /// The channel, for the one call that fetches the root.
    pub fn channel(self) -> Channel {
        self.0
    }
}

/// A root whose digest a join token vouches for.
pub struct PinnedRoot {
    pem: String,
    client: Arc<ClientConfig>,
}

/// Why a fetched root cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// It is not the token's.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is the token's, but no certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl PinnedRoot {
    /// Compares what was fetched with what the token pins.
    ///
    /// # Errors
    /// [`Refusal::ForeignCa`] if they differ.
    pub fn check(root_pem: &[u8], token: &JoinToken) -> Result<Self, PinError> {
        let served = RootDigest::of(root_pem);
        if served != token.digest() {
            let (served, expected) = (served.to_string(), token.digest().to_string());
            return Err(Refusal::ForeignCa { served, expected }.into());
        }
        let pem = String::from_utf8_lossy(root_pem).into_owned();
        let client = Arc::new(anonymous_client(&pem)?);
        Ok(Self { pem, client })
    }

    /// The root, to be kept.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Connects without a certificate to managers of this root: here the token may be sent.
    pub fn connector(&self) -> Connector {
        Connector::of(AsWhom::Anonymous(self.client.clone()))
    }
}

fn trusting_client() -> ClientConfig {
    let client = ClientConfig::builder_with_details(provider(), Arc::new(WallClock))
        .with_safe_default_protocol_versions()
        .expect("the provider knows the default versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider())))
        .with_no_client_auth();
    client_settings(client)
}

/// Accepts every certificate, but still wants its key to be there.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
