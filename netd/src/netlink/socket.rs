//! Reading a netlink socket without waiting.

use netlink_sys::Socket;
use std::io;

/// The largest datagram that the kernel sends, in bytes.
const DATAGRAM_MAX: usize = 64 << 10;

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A datagram: one message or several.
    Datagram(Vec<u8>),
    /// Nothing is there now.
    Nothing,
    /// The receive buffer was full and messages were dropped (ENOBUFS). The kernel says so once.
    Overrun,
}

/// Takes the next datagram.
///
/// # Errors
/// When the socket fails for another reason than a full buffer.
pub(crate) fn receive(socket: &Socket) -> io::Result<Received> {
    loop {
        let mut buffer = Vec::with_capacity(DATAGRAM_MAX);
        match socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
            Ok(_) => return Ok(Received::Datagram(buffer)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Received::Overrun),
            Err(error) => return Err(error),
        }
    }
}
