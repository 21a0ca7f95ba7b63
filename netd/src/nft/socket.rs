//! The netlink socket of one namespace: commits transactions, and tells what the kernel holds.
//!
//! The kernel works through what is sent before `send` returns, so its answers are there to be read and
//! nothing here ever waits: every read is non-blocking, and an answer that is missing is an error.

use super::object::Table;
use super::transaction::{Transaction, bracket};
use crate::netlink::answer::Answer;
use crate::netlink::namespace::inside;
use crate::netlink::socket::{Received, receive};
use crate::netlink::uapi::*;
use crate::netlink::wire::{self, HEADER_LEN, MessageView, MessageWriter};
use netlink_sys::{Socket as RawSocket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::io;
use std::os::fd::BorrowedFd;

/// Bytes of one transaction. It is sent as one datagram; the memory is taken only while it is sent.
pub const TRANSACTION_BYTES_MAX: usize = 256 << 20;
/// Bytes of the receive buffer: dumps, and refusals of many messages at once.
const RECEIVE_BYTES: usize = 16 << 20;
/// Dumps that the kernel calls interrupted by a change are begun again this often.
const DUMP_ATTEMPTS_MAX: u32 = 16;

/// Why a namespace's rules could not be changed or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket could not be made.
    #[error("open a netfilter socket: {0}")]
    Open(#[source] io::Error),
    /// The kernel did not take or give bytes.
    #[error("{operation} on the netfilter socket: {source}")]
    Transfer {
        /// What was being done.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a message; nothing of its transaction was done.
    #[error("{what} (message {index} of {n_messages}): {errno}{}", detail.as_deref().map(|text| format!(": {text}")).unwrap_or_default())]
    Refused {
        /// The message in words.
        what: String,
        /// Its place in the transaction, from 1.
        index: usize,
        /// Messages in the transaction.
        n_messages: usize,
        /// The kernel's reason.
        errno: Errno,
        /// The kernel's own words, where it has any.
        detail: Option<String>,
    },
    /// The transaction as a whole was refused.
    #[error("commit {n_messages} messages: {errno}")]
    Commit {
        /// Messages in the transaction.
        n_messages: usize,
        /// The kernel's reason.
        errno: Errno,
    },
    /// The kernel neither took nor refused what was sent.
    #[error("{n_messages} messages were not answered")]
    Unanswered {
        /// Messages that were sent.
        n_messages: usize,
    },
    /// The transaction is longer than [`TRANSACTION_BYTES_MAX`].
    #[error("a transaction of {0} bytes is too long (at most {TRANSACTION_BYTES_MAX})")]
    TooLong(usize),
    /// Changes came faster than the rules could be read.
    #[error("the dump was interrupted {DUMP_ATTEMPTS_MAX} times by changes")]
    Restless,
}

/// A netfilter socket that belongs to the namespace it was opened in.
pub struct Socket {
    raw: RawSocket,
    sequence: u32,
    port: u32,
}

impl Socket {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// When the kernel has no netfilter or the process too few rights.
    pub fn open() -> Result<Self, Error> {
        let mut raw = RawSocket::new(NETLINK_NETFILTER).map_err(Error::Open)?;
        let address = raw.bind_auto().map_err(Error::Open)?;
        raw.connect(&SocketAddr::new(0, 0)).map_err(Error::Open)?;
        raw.set_cap_ack(true).map_err(Error::Open)?;
        raw.set_ext_ack(true).map_err(Error::Open)?;
        force_buffers(&raw).map_err(Error::Open)?;
        Ok(Self { raw, sequence: 1, port: address.port_number() })
    }

    /// Opens a socket in another namespace.
    ///
    /// # Errors
    /// As [`Socket::open`], and when the namespace cannot be entered.
    pub fn open_in(namespace: BorrowedFd<'_>) -> Result<Self, Error> {
        inside(namespace, Self::open).map_err(Error::Open)?
    }

    /// The netlink port: the author of this socket's changes in the events of the namespace.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Commits a transaction whole, or changes nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] names the first message that the kernel did not take.
    pub fn commit(&mut self, transaction: &Transaction) -> Result<(), Error> {
        let begin = self.sequence;
        let messages = transaction.encode(begin.wrapping_add(1));
        if messages.is_empty() {
            return Ok(());
        }
        let n_bytes = messages.iter().map(|message| message.bytes.len()).sum();
        if n_bytes > TRANSACTION_BYTES_MAX {
            return Err(Error::TooLong(n_bytes));
        }
        let count = u32::try_from(messages.len()).expect("a message has more than one byte");
        let end = begin.wrapping_add(count + 1);
        self.sequence = end.wrapping_add(1);
        let mut batch = bracket(false, begin);
        batch.reserve(n_bytes + HEADER_LEN + 4);
        for message in &messages {
            batch.extend_from_slice(&message.bytes);
        }
        batch.extend_from_slice(&bracket(true, end));
        self.send(&batch)?;
        let answers = self.read_answers(begin, messages.len())?;
        judge(&answers, &messages)
    }

    /// The namespace's generation: it grows by one with every transaction of anybody.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn generation(&mut self) -> Result<u32, Error> {
        self.ask("read the generation", NFT_MSG_GETGEN, NFTA_GEN_ID)
    }

    /// Asks for one number, which the answer has under `attribute`.
    pub(crate) fn ask(&mut self, what: &'static str, kind: u16, attribute: u16) -> Result<u32, Error> {
        let sequence = self.next_sequence();
        self.send(&MessageWriter::netfilter(kind, REQUEST, sequence, 0, 0).finish())?;
        while let Some(datagram) = self.receive()? {
            for message in wire::messages(&datagram).filter(|message| message.sequence == sequence) {
                refuse_error(&message, what)?;
                let mut found = message.attributes().filter(|(kind, _)| *kind == attribute);
                if let Some(number) = found.next().and_then(|(_, value)| wire::be32(value)) {
                    return Ok(number);
                }
            }
        }
        Err(Error::Unanswered { n_messages: 1 })
    }

    /// A number for all that the kernel holds in a table; `None` when there is no such table. It changes
    /// with any change of a chain, rule, set or element, also with one that is put back by hand.
    ///
    /// # Errors
    /// When the kernel refuses the dump or changes interrupt it too often.
    pub fn fingerprint(&mut self, table: &Table) -> Result<Option<u64>, Error> {
        for _ in 0..DUMP_ATTEMPTS_MAX {
            match self.try_fingerprint(table) {
                Err(Error::Restless) => {}
                Err(Error::Refused { errno: Errno::ENOENT, .. }) => return Ok(None),
                result => return result,
            }
        }
        Err(Error::Restless)
    }

    fn try_fingerprint(&mut self, table: &Table) -> Result<Option<u64>, Error> {
        /// Kinds of objects, and which attribute names their table.
        const KINDS: [(u16, u16); 4] = [
            (NFT_MSG_GETTABLE, NFTA_TABLE_NAME),
            (NFT_MSG_GETCHAIN, NFTA_CHAIN_TABLE),
            (NFT_MSG_GETRULE, NFTA_RULE_TABLE),
            (NFT_MSG_GETSET, NFTA_SET_TABLE),
        ];
        let Table { name: table, family } = table;
        let generation = self.generation()?;
        let mut hasher = DefaultHasher::new();
        let mut sets = Vec::new();
        let mut there = false;
        for (kind, table_attribute) in KINDS {
            let filter = |m: &mut MessageWriter| {
                if kind != NFT_MSG_GETTABLE {
                    m.text(table_attribute, table).done()
                }
            };
            for body in self.dump(kind, *family, filter)? {
                let attributes = wire::after_nfgenmsg(&body);
                if wire::find(attributes, table_attribute).map(wire::text).as_ref() != Some(table) {
                    continue;
                }
                there = true;
                hasher.write(attributes);
                if kind == NFT_MSG_GETSET {
                    sets.extend(wire::find(attributes, NFTA_SET_NAME).map(wire::text));
                }
            }
        }
        for set in sets {
            // The order of a set's elements is the kernel's hash order: add them up.
            let elements = self.dump(NFT_MSG_GETSETELEM, *family, |m| {
                m.text(NFTA_SET_ELEM_LIST_TABLE, table).text(NFTA_SET_ELEM_LIST_SET, &set);
            })?;
            hasher.write_u64(elements.iter().fold(0, |sum, body| sum_elements(body).wrapping_add(sum)));
        }
        if self.generation()? != generation {
            return Err(Error::Restless);
        }
        Ok(there.then(|| hasher.finish()))
    }

    /// Asks for a dump and gives the bodies (netfilter header first) of its messages.
    pub(crate) fn dump(&mut self, kind: u16, family: u8, fill: impl Fn(&mut MessageWriter)) -> Result<Vec<Vec<u8>>, Error> {
        for _ in 0..DUMP_ATTEMPTS_MAX {
            let sequence = self.next_sequence();
            let mut request = MessageWriter::netfilter(kind, REQUEST | DUMP, sequence, family, 0);
            fill(&mut request);
            self.send(&request.finish())?;
            if let Some(bodies) = self.read_dump(sequence)? {
                return Ok(bodies);
            }
        }
        Err(Error::Restless)
    }

    fn read_dump(&mut self, sequence: u32) -> Result<Option<Vec<Vec<u8>>>, Error> {
        let mut bodies = Vec::new();
        let mut whole = true;
        while let Some(datagram) = self.receive()? {
            for message in wire::messages(&datagram).filter(|message| message.sequence == sequence) {
                refuse_error(&message, "read the rules")?;
                whole &= message.flags & DUMP_INTERRUPTED == 0;
                if message.kind == NLMSG_DONE {
                    return Ok(whole.then_some(bodies));
                }
                bodies.push(message.body.to_vec());
            }
        }
        Err(Error::Unanswered { n_messages: 1 })
    }

    /// Sends one request outside of a transaction and reads its acknowledgement.
    pub(crate) fn request(
        &mut self,
        what: &'static str,
        kind: u16,
        family: u8,
        fill: impl FnOnce(&mut MessageWriter),
    ) -> Result<(), Error> {
        let sequence = self.next_sequence();
        let mut request = MessageWriter::netfilter(kind, REQUEST | ACK, sequence, family, 0);
        fill(&mut request);
        self.send(&request.finish())?;
        while let Some(datagram) = self.receive()? {
            if let Some(message) = wire::messages(&datagram).find(|message| message.sequence == sequence) {
                return refuse_error(&message, what);
            }
        }
        Err(Error::Unanswered { n_messages: 1 })
    }

    fn next_sequence(&mut self) -> u32 {
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        sequence
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        self.raw.send(bytes, 0).map(drop).map_err(|source| Error::Transfer { operation: "send", source })
    }

    /// The next datagram; `None` when there is none.
    fn receive(&self) -> Result<Option<Vec<u8>>, Error> {
        let failed = |source| Error::Transfer { operation: "receive", source };
        match receive(&self.raw).map_err(failed)? {
            Received::Datagram(datagram) => Ok(Some(datagram)),
            Received::Nothing => Ok(None),
            Received::Overrun => Err(failed(Errno::ENOBUFS.into())),
        }
    }

    /// Reads the answers to messages `begin ..= begin + n_messages`, the opening bracket at place 0: every
    /// refusal, as far as there was room for them, and that of the last message in any case.
    fn read_answers(&self, begin: u32, n_messages: usize) -> Result<Vec<Option<Answer>>, Error> {
        let mut answers = vec![None; n_messages + 1];
        loop {
            let datagram = match receive(&self.raw).map_err(|source| Error::Transfer { operation: "receive", source })? {
                Received::Datagram(datagram) => datagram,
                Received::Nothing => break,
                // The first refusals are there, and they are what is told.
                Received::Overrun => continue,
            };
            for message in wire::messages(&datagram) {
                let place = message.sequence.wrapping_sub(begin) as usize;
                let (Some(slot), Some(answer)) = (answers.get_mut(place), Answer::parse(&message)) else { continue };
                // The kernel may replay a batch and answer again; a refusal is the last word.
                if slot.as_ref().is_none_or(|earlier: &Answer| earlier.errno.is_none()) {
                    *slot = Some(answer);
                }
            }
        }
        Ok(answers)
    }
}

fn judge(answers: &[Option<Answer>], messages: &[super::transaction::Message]) -> Result<(), Error> {
    let n_messages = messages.len();
    for (index, answer) in answers.iter().enumerate().skip(1) {
        if let Some(Answer { errno: Some(errno), text }) = answer {
            let what = messages[index - 1].what.clone();
            return Err(Error::Refused { what, index, n_messages, errno: *errno, detail: text.clone() });
        }
    }
    if let Some(Some(Answer { errno: Some(errno), .. })) = answers.first() {
        return Err(Error::Commit { n_messages, errno: *errno });
    }
    match answers.last() {
        Some(Some(_)) => Ok(()),
        _ => Err(Error::Unanswered { n_messages }),
    }
}

fn refuse_error(message: &MessageView<'_>, what: &'static str) -> Result<(), Error> {
    match Answer::parse(message) {
        Some(Answer { errno: Some(errno), text }) => {
            Err(Error::Refused { what: what.to_owned(), index: 1, n_messages: 1, errno, detail: text })
        }
        _ => Ok(()),
    }
}

fn sum_elements(body: &[u8]) -> u64 {
    let list = wire::find(wire::after_nfgenmsg(body), NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or_default();
    wire::attributes(list).fold(0, |sum, (_, element)| {
        let mut hasher = DefaultHasher::new();
        hasher.write(element);
        hasher.finish().wrapping_add(sum)
    })
}

fn force_buffers(raw: &RawSocket) -> io::Result<()> {
    setsockopt(raw, sockopt::RcvBufForce, &RECEIVE_BYTES)?;
    // The kernel doubles it.
    setsockopt(raw, sockopt::SndBufForce, &(TRANSACTION_BYTES_MAX / 2 + (1 << 20)))?;
    Ok(())
}
