//! The bytes of netlink: headers, attributes, and how they are read back.
//!
//! Writing cannot fail but by length: an attribute holds at most 65,535 bytes, so whoever builds long
//! lists cuts them. Reading trusts no length of what it reads.

/// The header of a netlink message, in bytes.
pub(crate) const HEADER_LEN: usize = 16;
/// Marks an attribute that holds attributes.
pub(crate) const NESTED: u16 = libc::NLA_F_NESTED as u16;
/// `struct nfgenmsg`, behind the header of every netfilter message, in bytes.
const NFGENMSG_LEN: usize = 4;

/// A message that is being written: the headers stand, attributes are appended.
pub(crate) struct MessageWriter {
    bytes: Vec<u8>,
}

impl MessageWriter {
    /// Opens a message of `kind` whose body begins with `fixed`.
    pub(crate) fn new(kind: u16, flags: u16, sequence: u32, fixed: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(fixed);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    /// Opens a netfilter message of `kind` (subsystem in the upper byte) with its `struct nfgenmsg`.
    pub(crate) fn netfilter(kind: u16, flags: u16, sequence: u32, family: u8, resource: u16) -> Self {
        let [high, low] = resource.to_be_bytes();
        Self::new(kind, flags, sequence, &[family, 0, high, low])
    }

    /// Appends an attribute of raw bytes.
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).expect("a caller cuts what does not fit in an attribute");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Appends a 32-bit number in network order.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Appends a string with its ending zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Appends an attribute that holds what `fill` appends.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).expect("a caller cuts what does not fit in an attribute");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Ends a chain of calls where nothing is to be given back.
    pub(crate) fn done(&mut self) {}

    /// The finished message, its length filled in.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("a message is far smaller than 4 GiB");
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }

    fn pad(&mut self) {
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }
}

/// Adds flags to a finished message.
pub(crate) fn add_flags(message: &mut [u8], flags: u16) {
    const FLAGS: std::ops::Range<usize> = 6..8;
    let field = &mut message[FLAGS];
    let all = u16::from_ne_bytes([field[0], field[1]]) | flags;
    field.copy_from_slice(&all.to_ne_bytes());
}

/// One message of a datagram as it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageView<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) port: u32,
    pub(crate) body: &'a [u8],
}

impl<'a> MessageView<'a> {
    /// The attributes behind the netfilter header.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        attributes(after_nfgenmsg(self.body))
    }
}

/// The attributes of a netfilter message, from its body.
pub(crate) fn after_nfgenmsg(body: &[u8]) -> &[u8] {
    body.get(NFGENMSG_LEN..).unwrap_or_default()
}

/// Cuts a datagram into its messages, headers and all; ends at the first length that cannot be right.
pub(crate) fn split(mut datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = u32_at(datagram, 0)? as usize;
        let message = datagram.get(..length).filter(|message| message.len() >= HEADER_LEN)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Reads the messages of a datagram, as [`split`] cuts it.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = MessageView<'_>> {
    split(datagram).map_while(|message| {
        Some(MessageView {
            kind: u16_at(message, 4)?,
            flags: u16_at(message, 6)?,
            sequence: u32_at(message, 8)?,
            port: u32_at(message, 12)?,
            body: &message[HEADER_LEN..],
        })
    })
}

/// Cuts bytes into attributes (kind without its flag bits, value); ends at the first impossible length.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u16_at(bytes, 0)? as usize;
        if length < 4 || length > bytes.len() {
            return None;
        }
        let attribute = (u16_at(bytes, 2)? & libc::NLA_TYPE_MASK as u16, &bytes[4..length]);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(attribute)
    })
}

/// The value of the first attribute of a kind.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A string without its ending zero; bytes that are not UTF-8 are replaced.
pub(crate) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// A 32-bit number in network order at the start.
pub(crate) fn be32(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?))
}

/// A 16-bit number in network order at the start.
pub(crate) fn be16(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.get(..2)?.try_into().ok()?))
}

/// A 32-bit number in the machine's order.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut message = MessageWriter::netfilter(0x0a03, 5, 9, 1, 0);
        message.text(1, "odd").nest(2, |inner| {
            inner.be32(7, 11);
        });
        let bytes = message.finish();
        let view = messages(&bytes).next().expect("one message");
        assert_eq!((view.kind, view.flags, view.sequence), (0x0a03, 5, 9));
        let read: Vec<_> = view.attributes().collect();
        assert_eq!(text(read[0].1), "odd");
        assert_eq!(find(read[1].1, 7).and_then(be32), Some(11));
        assert_eq!(messages(&bytes).count(), 1);
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                for (_, value) in message.attributes() {
                    let _ = (attributes(value).count(), text(value), be32(value), be16(value));
                }
            }
        }
    }
}
