//! Parties that want no good of a manager's port, each from an address of its own.

use skep_identity::tls::Connector;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
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

/// HTTP/2 by hand (RFC 9113): a library would keep to the limits that the server names.
pub struct Http2(TlsStream<TcpStream>);

/// What a server sent about a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    /// The end of its answer.
    Answer { stream: u32 },
    /// It does not take the stream, or not go on with it; why, as RFC 9113, 7 has it.
    Reset { stream: u32, code: u32 },
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// The server has no place for the stream and has not looked at it.
pub const REFUSED_STREAM: u32 = 7;

impl Http2 {
    /// Opens a connection without a certificate.
    pub async fn connect(from: [u8; 4], to: &str) -> Self {
        let mut http2 = Self(connect(from, to).await.unwrap());
        http2.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        http2.send(SETTINGS, 0, 0, &[]).await;
        http2
    }

    /// Begins a call of `Ca/GetRoot`, which anyone may make; its one message is not sent yet.
    pub async fn begin(&mut self, stream: u32) {
        // RFC 7541: names and whole fields by their number in its appendix A, values as they are.
        let mut block = vec![0x83, 0x87];
        for (name, value) in [(&[0x04][..], "/skep.v1.Ca/GetRoot"), (&[0x01], "manager"), (&[0x0f, 0x10], "application/grpc")] {
            block.extend_from_slice(name);
            block.push(value.len() as u8);
            block.extend_from_slice(value.as_bytes());
        }
        block.extend_from_slice(b"\0\x02te\x08trailers");
        self.send(HEADERS, END_HEADERS, stream, &block).await;
    }

    /// Sends a call's message, which is empty: five bytes of gRPC's say so.
    pub async fn finish(&mut self, stream: u32) {
        self.send(DATA, END_STREAM, stream, &[0; 5]).await;
    }

    /// What the server sends next of an answer's end or a stream's reset, its pings answered meanwhile; `None` when it
    /// has closed the connection.
    pub async fn next(&mut self) -> Option<Sent> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, flags, id @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes(id);
            match kind {
                PING | SETTINGS if flags & ACK == 0 => {
                    let payload = if kind == PING { &payload[..] } else { &[] };
                    self.send(kind, ACK, 0, payload).await;
                }
                HEADERS | DATA if flags & END_STREAM != 0 => return Some(Sent::Answer { stream }),
                RST_STREAM => {
                    let code = payload.try_into().map(u32::from_be_bytes).expect("a code has four bytes");
                    return Some(Sent::Reset { stream, code });
                }
                _ => {}
            }
        }
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
        let frame = [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat();
        // A server that has hung up is found by the next read.
        let _sent = self.0.write_all(&frame).await;
        let _flushed = self.0.flush().await;
    }
}
