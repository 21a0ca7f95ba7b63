//! As much of HTTP/1.1 as both ends here need: heads without folding, bodies
//! with a length, connections that stay open unless one end says `close`.

use std::io::{self, BufRead, Read};

/// Bytes; more than any head here.
const HEAD_MAX: u64 = 16 * 1024;

/// What comes before a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// The request or status line.
    pub first_line: String,
    /// Bytes of the body.
    pub length: u64,
    /// Whether the sender ends the connection after this message.
    pub closes: bool,
}

/// Reads a head; nothing at the end of the stream.
///
/// # Errors
/// If the stream ends within the head, or the head is none.
pub fn read_head(stream: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut limited = stream.take(HEAD_MAX);
    let mut line = String::new();
    if limited.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut head = Head { first_line: line.trim_end().to_owned(), length: 0, closes: false };
    loop {
        line.clear();
        if limited.read_line(&mut line)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ended within a head"));
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            return if line.trim_end().is_empty() {
                Ok(Some(head))
            } else {
                Err(io::Error::other(format!("no header: {line:?}")))
            };
        };
        match (name.to_ascii_lowercase().as_str(), value.trim()) {
            ("content-length", value) => head.length = value.parse().map_err(io::Error::other)?,
            ("connection", value) => head.closes = value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
}
