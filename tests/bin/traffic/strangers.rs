//! Connections to a manager's port by somebody who has no certificate.

use anyhow::Context;
use skep_identity::tls::Connector;
use std::io::{Read, Write};
use tokio::io::AsyncWriteExt as _;

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

impl Strangers {
    /// Says `idle N of M, garbage N of M` once all were tried.
    ///
    /// # Errors
    /// When nothing can be tried.
    pub fn run(self) -> anyhow::Result<()> {
        self.target.parse::<std::net::SocketAddr>().context("the target is ADDRESS:PORT")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stranger = Connector::stranger();
        let (idle, held) = runtime.block_on(async {
            let mut idle = Vec::new();
            for _ in 0..self.idle {
                idle.extend(stranger.open(&self.target).await.ok());
            }
            let mut held = Vec::new();
            for _ in 0..self.garbage {
                if let Ok(mut stream) = stranger.open(&self.target).await
                    && stream.write_all(&noise()).await.is_ok()
                    && stream.flush().await.is_ok()
                {
                    held.push(stream);
                }
            }
            (idle, held)
        });
        let garbage = held.len();
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
