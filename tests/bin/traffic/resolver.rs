//! A name server of the outside world: it knows every name that ends in
//! `.example`, has one address for all of them, and prints what it was asked, so
//! that a test can say that it was not asked.

use anyhow::Context as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

/// RFC 1035, section 4.1.1: the head's length in bytes.
const HEAD: usize = 12;
/// An answer to a question of type A, in class IN.
const TYPE_A: [u8; 4] = [0, 1, 0, 1];
/// RFC 1035, section 4.1.1: response codes.
const NO_ERROR: u8 = 0;
const NO_SUCH_NAME: u8 = 3;

/// Answers every question for an IPv4 address, and says `query NAME`.
#[derive(Debug, clap::Args)]
pub struct Resolver {
    /// ADDRESS:PORT to listen on.
    listen: SocketAddr,
    /// The one address.
    #[arg(long, default_value = "192.0.2.53")]
    answer: Ipv4Addr,
}

impl Resolver {
    /// Answers forever.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn run(self) -> anyhow::Result<()> {
        let socket = UdpSocket::bind(self.listen).with_context(|| format!("cannot bind {}", self.listen))?;
        println!("resolving");
        let mut buffer = [0; 512];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).context("cannot receive")?;
            let Some((name, end)) = question(&buffer[..length]) else {
                println!("no question from {client}");
                continue;
            };
            println!("query {name}");
            let is_known = name.ends_with(".example");
            socket.send_to(&reply(&buffer[..end], is_known, self.answer), client).context("cannot send")?;
        }
    }
}

/// The name that a message asks for, and where its question ends.
fn question(message: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = HEAD;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + length)?).into_owned());
        at += length;
    }
    (message.len() >= at + 4).then(|| (labels.join("."), at + 4))
}

/// The question again, with an answer if the name is known and it was for an IPv4
/// address; a name that is not known does not exist.
fn reply(asked: &[u8], is_known: bool, address: Ipv4Addr) -> Vec<u8> {
    let has_answer = is_known && asked.ends_with(&TYPE_A);
    let code = if is_known { NO_ERROR } else { NO_SUCH_NAME };
    let mut reply = asked.to_vec();
    // A response, recursion available; one question and nothing else so far.
    reply[2..HEAD].copy_from_slice(&[0x81, 0x80 | code, 0, 1, 0, u8::from(has_answer), 0, 0, 0, 0]);
    if has_answer {
        // The name is that of the question (a pointer to byte 12); it may be kept for no time.
        reply.extend_from_slice(&[0xc0, HEAD as u8, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        reply.extend_from_slice(&address.octets());
    }
    reply
}
