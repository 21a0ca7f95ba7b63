//! Connections to a manager's port by somebody who has no certificate.

use anyhow::Context;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

/// For one connection with its handshake.
const LIMIT: Duration = Duration::from_secs(5);

/// Opens connections and holds them, as many as are taken, until its standard input ends.
#[derive(Debug, clap::Args)]
pub struct Strangers {
    /// ADDRESS:PORT of a manager.
    target: String,
    /// Connections that say nothing after their handshake.
    #[arg(long)]
    idle: usize,
    /// Connections that send garbage after their handshake.
    #[arg(long)]
    garbage: usize,
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

impl Strangers {
    /// Says `idle N of M, garbage N of M` once all were tried.
    ///
    /// # Errors
    /// When nothing can be tried.
    pub fn run(self) -> anyhow::Result<()> {
        let config = Arc::new(config()?);
        let target: std::net::SocketAddr = self.target.parse().context("the target is ADDRESS:PORT")?;
        let idle: Vec<Stream> = (0..self.idle).filter_map(|_| open(&config, target).ok()).collect();
        let mut garbage = 0;
        let mut held = Vec::new();
        for _ in 0..self.garbage {
            if let Ok(mut stream) = open(&config, target)
                && stream.write_all(&noise()).and_then(|()| stream.flush()).is_ok()
            {
                garbage += 1;
                held.push(stream);
            }
        }
        println!("idle {} of {}, garbage {garbage} of {}", idle.len(), self.idle, self.garbage);
        std::io::stdout().flush()?;
        // Held until whoever started this ends it.
        let mut rest = Vec::new();
        std::io::stdin().read_to_end(&mut rest)?;
        loop {
            std::thread::park();
        }
    }
}

/// HTTP/2's preface, and then what nobody understands.
fn noise() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend((0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8));
    bytes
}

fn open(config: &Arc<ClientConfig>, target: std::net::SocketAddr) -> anyhow::Result<Stream> {
    let socket = TcpStream::connect_timeout(&target, LIMIT)?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.set_write_timeout(Some(LIMIT))?;
    let name = ServerName::try_from("swarm-manager")?;
    let mut stream = StreamOwned::new(ClientConnection::new(config.clone(), name)?, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

fn config() -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Takes any server: this end has nothing to lose.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
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
