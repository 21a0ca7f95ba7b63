//! Frames on a stream: a 32-bit little-endian length, then that many bytes of JSON.
//!
//! Every buffer is wiped when dropped, since a frame may carry secrets, and is sized before it is filled, since a
//! growing vector leaves copies behind. A frame above [`FRAME_MAX`] is refused before memory is taken for it.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// The longest frame, in bytes.
pub const FRAME_MAX: usize = 64 << 20;

/// Why a frame could not be sent or understood.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The stream failed.
    #[error("the connection between agent and shim failed")]
    Stream(#[source] io::Error),
    /// The other side is gone.
    #[error("the other side closed the connection between agent and shim")]
    Closed,
    /// Too long to be sent or accepted.
    #[error("a frame of {0} bytes is over the limit of {FRAME_MAX}")]
    TooLong(usize),
    /// Not what was expected. The message names no content, which may be secret.
    #[error("a frame of {length} bytes cannot be read as the expected message (column {column})")]
    Malformed {
        /// Bytes of the frame.
        length: usize,
        /// Where reading stopped.
        column: usize,
    },
    /// A message that has no JSON form.
    #[error("a message cannot be encoded")]
    Encode,
}

#[derive(Default)]
struct Counter(usize);

impl Write for Counter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0 += buf.len();
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A message as one frame, length included.
pub fn encode<T: Serialize>(message: &T) -> Result<Zeroizing<Vec<u8>>, WireError> {
    let mut counter = Counter::default();
    serde_json::to_writer(&mut counter, message).map_err(|_| WireError::Encode)?;
    if counter.0 > FRAME_MAX {
        return Err(WireError::TooLong(counter.0));
    }
    let mut frame = Zeroizing::new(Vec::with_capacity(counter.0 + 4));
    frame.extend_from_slice(&(counter.0 as u32).to_le_bytes());
    serde_json::to_writer(&mut *frame, message).map_err(|_| WireError::Encode)?;
    Ok(frame)
}

/// A frame's body as a message.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
    serde_json::from_slice(body).map_err(|error| WireError::Malformed { length: body.len(), column: error.column() })
}

/// A frame's body as a message; none if it is a message of a kind that this version does not know.
pub fn decode_known<T: DeserializeOwned>(body: &[u8]) -> Result<Option<T>, WireError> {
    match decode(body) {
        Ok(message) => Ok(Some(message)),
        Err(error) => decode::<serde::de::IgnoredAny>(body).map(|_| None).map_err(|_| error),
    }
}

/// Sends one message on a blocking stream; the stream's own write timeout is the deadline.
pub fn send<T: Serialize>(stream: &mut impl Write, message: &T) -> Result<(), WireError> {
    let frame = encode(message)?;
    stream.write_all(&frame).map_err(WireError::Stream)
}

/// Receives one message from a blocking stream; the stream's own read timeout is the deadline.
pub fn receive<T: DeserializeOwned>(stream: &mut impl Read) -> Result<T, WireError> {
    let mut length = [0; 4];
    read_exact(stream, &mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_MAX {
        return Err(WireError::TooLong(length));
    }
    let mut body = Zeroizing::new(vec![0; length]);
    read_exact(stream, &mut body)?;
    decode(&body)
}

fn read_exact(stream: &mut impl Read, buf: &mut [u8]) -> Result<(), WireError> {
    stream.read_exact(buf).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => WireError::Closed,
        _ => WireError::Stream(error),
    })
}

/// Collects frames from a stream that does not block.
#[derive(Default)]
pub struct Inbox {
    head: Vec<u8>,
    body: Zeroizing<Vec<u8>>,
    length: Option<usize>,
}

impl Inbox {
    /// Bytes wanted next, so that no buffer grows: read at most that many and hand them to [`Inbox::push`].
    pub fn wanted(&self) -> usize {
        match self.length {
            None => 4 - self.head.len(),
            Some(length) => (length - self.body.len()).min(64 << 10),
        }
    }

    /// Takes what was read, at most [`Inbox::wanted`] bytes; returns the body of a frame once it is whole.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, WireError> {
        match self.length {
            None => {
                self.head.extend_from_slice(bytes);
                if let Ok(head) = <[u8; 4]>::try_from(self.head.as_slice()) {
                    let length = u32::from_le_bytes(head) as usize;
                    if length > FRAME_MAX {
                        return Err(WireError::TooLong(length));
                    }
                    self.body = Zeroizing::new(Vec::with_capacity(length));
                    self.length = Some(length);
                }
            }
            Some(_) => self.body.extend_from_slice(bytes),
        }
        if self.length == Some(self.body.len()) {
            self.head.clear();
            self.length = None;
            return Ok(Some(std::mem::take(&mut self.body)));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_arrive_whole_however_they_are_cut(messages: Vec<String>, cut in 1usize..9) {
            let mut stream = Vec::new();
            for message in &messages {
                send(&mut stream, message).unwrap();
            }
            let (mut inbox, mut got, mut rest) = (Inbox::default(), Vec::new(), stream.as_slice());
            while !rest.is_empty() {
                let n = inbox.wanted().min(cut).min(rest.len());
                if let Some(body) = inbox.push(&rest[..n]).unwrap() {
                    got.push(decode::<String>(&body).unwrap());
                }
                rest = &rest[n..];
            }
            prop_assert_eq!(&got, &messages);
            let mut reader = stream.as_slice();
            for message in &messages {
                prop_assert_eq!(&receive::<String>(&mut reader).unwrap(), message);
            }
            prop_assert!(matches!(receive::<String>(&mut reader), Err(WireError::Closed)));
        }
    }

    #[test]
    fn an_oversized_frame_is_refused_before_memory_is_taken() {
        let head = u32::MAX.to_le_bytes();
        assert!(matches!(receive::<String>(&mut head.as_slice()), Err(WireError::TooLong(_))));
        assert!(matches!(Inbox::default().push(&head), Err(WireError::TooLong(_))));
    }

    #[test]
    fn what_is_not_known_is_told_from_what_is_not_a_message() {
        assert_eq!(decode_known::<u32>(b"7").unwrap(), Some(7));
        assert_eq!(decode_known::<u32>(b"{\"Later\":{\"n\":1}}").unwrap(), None);
        assert!(decode_known::<u32>(b"{\"Later\":").is_err());
    }

    #[test]
    fn an_error_never_shows_the_content() {
        let error = decode::<u32>(b"\"hunter2\"").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
