//! Parties that want no good of a manager's port, each from an address of its own.

use skep_identity::tls::Connector;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Opens a TLS connection without a certificate from `from` to `to`.
pub async fn connect(from: [u8; 4], to: &str) -> std::io::Result<TlsStream<TcpStream>> {
    Connector::stranger().bound_to(from.into()).open(to).await
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
