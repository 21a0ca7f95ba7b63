//! Messages of the domain name system: a query read, a reply written.

use hickory_proto::op::{Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use skep_netd_core::{NameAnswer, NameQuestion};
use std::net::IpAddr;

/// The largest reply over UDP, in bytes, whatever a client says it can take. It
/// only ever crosses the loopback interface of a namespace.
pub const UDP_MAX: usize = 4096;
/// The largest reply over UDP to a client that says nothing.
const UDP_PLAIN: usize = 512;
/// Bytes of a header.
const HEADER: usize = 12;
/// Where a header counts the answers.
const ANSWERS: usize = 6;
/// Where a header counts the additional records.
const ADDITIONALS: usize = 10;
/// The byte and bit of a header that say that something was left out.
const TRUNCATION: (usize, u8) = (2, 0b10);
/// In place of a name: the one behind the header.
const QUESTION_NAME: u16 = 0xc000 | HEADER as u16;
/// How long an address of a service holds, in seconds: as long as the service.
const SERVICE_TTL: u32 = 30;
/// How long the address of a task holds, in seconds: for one use. Whoever kept it
/// would call a task that is gone.
const TASK_TTL: u32 = 0;

/// A query that is one question.
#[derive(Clone, Debug)]
pub struct Asked {
    message: Message,
    what: What,
}

/// What is asked, in the words of the state.
#[derive(Clone, Debug)]
enum What {
    /// Empty for what the state cannot know.
    Name(String),
    Address(IpAddr),
}

/// What to do with bytes that arrived.
#[derive(Clone, Debug)]
pub enum Read {
    /// It is a question.
    Asked(Box<Asked>),
    /// It is none, and this is said in return.
    Refused(Vec<u8>),
    /// It is no query, and is not answered.
    Malformed,
}

/// Reads a query.
pub fn read(bytes: &[u8]) -> Read {
    let Ok(message) = Message::from_vec(bytes) else { return Read::Malformed };
    if message.metadata.message_type != MessageType::Query {
        return Read::Malformed;
    }
    let refusal = if message.metadata.op_code != OpCode::Query {
        Some(ResponseCode::NotImp)
    } else if message.queries.len() != 1 {
        Some(ResponseCode::FormErr)
    } else if message.version() > 0 {
        Some(ResponseCode::BADVERS)
    } else {
        None
    };
    match refusal {
        Some(code) => reply(&message, code, TASK_TTL, &[], UDP_PLAIN).map_or(Read::Malformed, Read::Refused),
        None => {
            let what = what(&message.queries[0]);
            Read::Asked(Box::new(Asked { message, what }))
        }
    }
}

fn what(query: &Query) -> What {
    let nothing = || What::Name(String::new());
    if query.query_class() != DNSClass::IN {
        return nothing();
    }
    if query.query_type() == RecordType::PTR {
        let whole = |net: &ipnet::IpNet| net.prefix_len() == net.max_prefix_len();
        return query.name().parse_arpa_name().ok().filter(whole).map_or_else(nothing, |net| What::Address(net.addr()));
    }
    let labels = query.name().iter().map(std::str::from_utf8).collect::<Result<Vec<&str>, _>>();
    labels.map_or_else(|_| nothing(), |labels| What::Name(labels.join(".")))
}

impl Asked {
    /// The question.
    pub fn question(&self) -> NameQuestion<'_> {
        match &self.what {
            What::Name(name) => NameQuestion::Name(name),
            What::Address(address) => NameQuestion::Address(*address),
        }
    }

    /// Whether an address is of the kind that is asked for.
    pub fn wants(&self, address: &IpAddr) -> bool {
        match self.message.queries[0].query_type() {
            RecordType::A => address.is_ipv4(),
            RecordType::AAAA => address.is_ipv6(),
            RecordType::ANY => true,
            _ => false,
        }
    }

    /// The most bytes of a reply over UDP.
    pub fn udp_max(&self) -> usize {
        usize::from(self.message.max_payload()).clamp(UDP_PLAIN, UDP_MAX)
    }

    /// The reply to it; addresses begin with the one at place `turn`. None if
    /// others must be asked.
    pub fn reply(&self, answer: NameAnswer, turn: usize, limit: usize) -> Option<Vec<u8>> {
        let (code, ttl, data) = match answer {
            NameAnswer::Elsewhere => return None,
            NameAnswer::Nowhere => (ResponseCode::NXDomain, TASK_TTL, Vec::new()),
            NameAnswer::Named(name) => match data_of_name(&name) {
                Some(data) => (ResponseCode::NoError, TASK_TTL, vec![data]),
                None => (ResponseCode::NXDomain, TASK_TTL, Vec::new()),
            },
            NameAnswer::Service(addresses) => (ResponseCode::NoError, SERVICE_TTL, data_of(addresses, turn)),
            NameAnswer::Tasks(addresses) => (ResponseCode::NoError, TASK_TTL, data_of(addresses, turn)),
        };
        reply(&self.message, code, ttl, &data, limit)
    }

    /// The reply that something went wrong here.
    pub fn failure(&self) -> Option<Vec<u8>> {
        reply(&self.message, ResponseCode::ServFail, TASK_TTL, &[], UDP_PLAIN)
    }

    /// Whether bytes that arrived are the reply to this query under that id: the
    /// reply for the client, and whether another server should be asked as well.
    pub fn returned(&self, bytes: &[u8], id: u16) -> Option<Returned> {
        let mut decoder = BinDecoder::new(bytes);
        let Header { metadata, counts } = Header::read(&mut decoder).ok()?;
        if metadata.id != id || metadata.message_type != MessageType::Response {
            return None;
        }
        let queries = Message::read_queries(&mut decoder, usize::from(counts.queries)).ok()?;
        let is_failure = matches!(metadata.response_code, ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp);
        // Some servers leave the question out when they fail.
        let is_same = queries.len() == 1 && same(&queries[0], &self.message.queries[0]);
        let is_ours = is_same || (queries.is_empty() && is_failure);
        is_ours.then(|| Returned { bytes: with_id(bytes, self.message.metadata.id), is_failure })
    }
}

/// What another server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returned {
    /// For the client.
    pub bytes: Vec<u8>,
    /// Another server may know better.
    pub is_failure: bool,
}

fn same(one: &Query, other: &Query) -> bool {
    one.query_type() == other.query_type()
        && one.query_class() == other.query_class()
        && one.name().to_lowercase() == other.name().to_lowercase()
}

/// The same message under another id.
pub fn with_id(bytes: &[u8], id: u16) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    if changed.len() >= HEADER {
        changed[..2].copy_from_slice(&id.to_be_bytes());
    }
    changed
}

/// The data of an answer to a question: its type and bytes.
type Data = (RecordType, Vec<u8>);

fn data_of(mut addresses: Vec<IpAddr>, turn: usize) -> Vec<Data> {
    if !addresses.is_empty() {
        let place = turn % addresses.len();
        addresses.rotate_left(place);
    }
    let data = |address| match address {
        IpAddr::V4(address) => (RecordType::A, address.octets().to_vec()),
        IpAddr::V6(address) => (RecordType::AAAA, address.octets().to_vec()),
    };
    addresses.into_iter().map(data).collect()
}

/// A name as data; none if it is too long to be one.
fn data_of_name(name: &str) -> Option<Data> {
    let name = Name::from_labels(name.split('.').map(str::as_bytes)).ok()?;
    let mut bytes = Vec::new();
    for label in name.iter() {
        bytes.push(u8::try_from(label.len()).ok()?);
        bytes.extend_from_slice(label);
    }
    bytes.push(0);
    Some((RecordType::PTR, bytes))
}

/// Writes a reply of at most `limit` bytes. What does not fit is left out, and the
/// reply says so: a client asks again over TCP, or makes do with what it has.
///
/// Records are written here and not by the library, which names the same name anew
/// after some: all of ours have the name of the question.
fn reply(query: &Message, code: ResponseCode, ttl: u32, data: &[Data], limit: usize) -> Option<Vec<u8>> {
    let mut message = Message::response(query.metadata.id, query.metadata.op_code);
    message.metadata.recursion_desired = query.metadata.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message.queries.clone_from(&query.queries);
    let written = message.to_vec().inspect_err(|error| tracing::warn!(%error, "a reply to a name query cannot be written"));
    let mut bytes = written.ok()?;
    let options = if query.edns.is_some() { options(code) } else { Vec::new() };
    let mut n_answers = 0_u16;
    for (kind, data) in data {
        let record = record(*kind, ttl, data);
        if bytes.len() + record.len() + options.len() > limit {
            bytes[TRUNCATION.0] |= TRUNCATION.1;
            break;
        }
        bytes.extend_from_slice(&record);
        n_answers += 1;
    }
    bytes.extend_from_slice(&options);
    bytes[ANSWERS..ANSWERS + 2].copy_from_slice(&n_answers.to_be_bytes());
    bytes[ADDITIONALS..ADDITIONALS + 2].copy_from_slice(&u16::from(query.edns.is_some()).to_be_bytes());
    Some(bytes)
}

/// A record of the name in question (RFC 1035, 4.1.3 and 4.1.4).
fn record(kind: RecordType, ttl: u32, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("an address or a name is short");
    let mut bytes = Vec::with_capacity(12 + data.len());
    bytes.extend_from_slice(&QUESTION_NAME.to_be_bytes());
    bytes.extend_from_slice(&u16::from(kind).to_be_bytes());
    bytes.extend_from_slice(&u16::from(DNSClass::IN).to_be_bytes());
    bytes.extend_from_slice(&ttl.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// The record that answers a query with options (RFC 6891, 6.1.2): how much fits
/// here, and the upper half of the code.
fn options(code: ResponseCode) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&u16::from(RecordType::OPT).to_be_bytes());
    bytes.extend_from_slice(&u16::try_from(UDP_MAX).expect("it fits a datagram").to_be_bytes());
    bytes.extend_from_slice(&[code.high(), 0, 0, 0, 0, 0]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Edns;

    fn asked(name: &str, kind: RecordType, size: Option<u16>) -> Box<Asked> {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
        if let Some(size) = size {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            message.set_edns(edns);
        }
        match read(&message.to_vec().expect("it can be written")) {
            Read::Asked(asked) => asked,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn questions_are_read_in_the_words_of_the_state() {
        let table = [
            ("web.", RecordType::A, "Name(\"web\")"),
            ("Tasks.my_web.", RecordType::AAAA, "Name(\"Tasks.my_web\")"),
            ("2.0.1.10.in-addr.arpa.", RecordType::PTR, "Address(10.1.0.2)"),
            ("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.0.0.0.0.0.d.f.ip6.arpa.", RecordType::PTR, "Address(fd00:2::1)"),
            ("1.10.in-addr.arpa.", RecordType::PTR, "Name(\"\")"),
            ("2.0.1.10.in-addr.arpa.", RecordType::A, "Name(\"2.0.1.10.in-addr.arpa\")"),
            (".", RecordType::NS, "Name(\"\")"),
        ];
        for (name, kind, expected) in table {
            assert_eq!(format!("{:?}", asked(name, kind, None).question()), expected, "{name} {kind}");
        }
    }

    /// Also with more addresses than a message can hold, and with a long name.
    #[test]
    fn replies_keep_to_their_size() {
        let name = format!("{0}.{0}.{0}.{1}.", "a".repeat(63), "b".repeat(55));
        let addresses: Vec<IpAddr> = (0..5000_u128).map(|n| IpAddr::from(n.to_be_bytes())).collect();
        for (size, limit) in [(None, 512), (Some(0), 512), (Some(1232), 1232), (Some(65535), UDP_MAX)] {
            let asked = asked(&name, RecordType::AAAA, size);
            assert_eq!(asked.udp_max(), limit, "{size:?}");
            for limit in [limit, usize::from(u16::MAX)] {
                let bytes = asked.reply(NameAnswer::Tasks(addresses.clone()), 4999, limit).expect("it is known here");
                let reply = Message::from_vec(&bytes).expect("it is a message");
                let bare = HEADER + name.len() + 1 + 4 + if size.is_some() { 11 } else { 0 };
                assert_eq!(reply.answers.len(), (limit - bare) / 28, "{size:?}, {limit} bytes");
                assert!(reply.metadata.truncation && bytes.len() <= limit);
                assert_eq!(reply.answers[0].data.ip_addr(), Some(addresses[4999]));
                assert_eq!(reply.answers[1].data.ip_addr(), Some(addresses[0]));
                assert_eq!(reply.edns.is_some(), size.is_some());
            }
        }
    }

    #[test]
    fn only_the_reply_to_the_question_returns() {
        let asked = asked("Example.com.", RecordType::A, None);
        let question = |name: &str, kind| Some(Query::query(Name::from_ascii(name).expect("a name"), kind));
        let table = [
            (7, ResponseCode::NoError, question("Example.com.", RecordType::A), Some(false)),
            (7, ResponseCode::NXDomain, question("eXample.com.", RecordType::A), Some(false)),
            (7, ResponseCode::Refused, question("example.com.", RecordType::A), Some(true)),
            (7, ResponseCode::NoError, question("example.org.", RecordType::A), None),
            (7, ResponseCode::NoError, question("example.com.", RecordType::AAAA), None),
            (7, ResponseCode::NoError, None, None),
            (7, ResponseCode::ServFail, None, Some(true)),
            (8, ResponseCode::NoError, question("example.com.", RecordType::A), None),
        ];
        for (id, code, question, expected) in table {
            let mut reply = Message::response(id, OpCode::Query);
            reply.metadata.response_code = code;
            reply.add_queries(question.clone());
            let returned = asked.returned(&reply.to_vec().expect("it can be written"), 7);
            assert_eq!(returned.as_ref().map(|returned| returned.is_failure), expected, "{id} {code:?} {question:?}");
            assert!(returned.is_none_or(|returned| returned.bytes[..2] == asked.message.metadata.id.to_be_bytes()));
        }
        assert_eq!(asked.returned(&[7; 5], 7), None);
    }
}
