//! Parties that want no good of a manager's port, each from an address of its own.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Opens a TLS connection without a certificate from `from` to `to`.
pub async fn connect(from: [u8; 4], to: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    let opening = async {
        let stream = socket.connect(to.parse().map_err(std::io::Error::other)?).await?;
        let name = ServerName::try_from("swarm-manager").map_err(std::io::Error::other)?;
        TlsConnector::from(Arc::new(config())).connect(name, stream).await
    };
    let opened = tokio::time::timeout(Duration::from_secs(5), opening).await;
    opened.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// Sends garbage as long as the test runs: what is no HTTP/2, and calls that are none.
pub async fn garbage(from: [u8; 4], to: String) {
    loop {
        if let Ok(mut stream) = connect(from, &to).await {
            let _refused = talk(&mut stream).await;
        }
        tokio::task::yield_now().await;
    }
}

async fn talk(stream: &mut TlsStream<TcpStream>) -> std::io::Result<()> {
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    // An empty SETTINGS frame, then headers that do not decode, then more of everything.
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
    let mut byte = 1_u8;
    for _ in 0..64 {
        let mut frame = vec![0, 0, 200, byte % 12, byte, 0, 0, 0, byte | 1];
        frame.extend((0..200_u8).map(|n| n.wrapping_mul(byte).wrapping_add(byte)));
        stream.write_all(&frame).await?;
        byte = byte.wrapping_mul(5).wrapping_add(3);
    }
    stream.flush().await
}

fn config() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows the default versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// Whoever floods does not care whom.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
