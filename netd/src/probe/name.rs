//! A name, asked as a program of the task would, and compared with the state.

use crate::dns::NameServer;
use crate::netlink::namespace::inside;
use crate::nft::names::ADDRESS;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use skep_model::TaskId;
use skep_netd_core::{NameAnswer, NameQuestion};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::Instant;

/// Times that a name is asked for: the state may change between an answer and the
/// look at it.
const ATTEMPTS: u32 = 3;
/// Where a task's resolver asks.
const PORT: u16 = 53;

/// Asks for both families. Returns how long the slower answer took.
///
/// # Errors
/// If nobody answers, or something else than the state says.
pub async fn check(name: &str, task: TaskId, namespace: BorrowedFd<'_>, server: &NameServer) -> Result<Duration, String> {
    let mut wrong = String::new();
    for _ in 0..ATTEMPTS {
        let begun = Instant::now();
        let mut slowest = Duration::ZERO;
        wrong.clear();
        for kind in [RecordType::A, RecordType::AAAA] {
            let reply = ask(name, kind, namespace).await.map_err(|error| format!("{name}: {error}"))?;
            slowest = slowest.max(begun.elapsed());
            if let Err(error) = compare(name, kind, task, &reply, server) {
                wrong = error;
            }
        }
        if wrong.is_empty() {
            return Ok(slowest);
        }
    }
    Err(wrong)
}

async fn ask(name: &str, kind: RecordType, namespace: BorrowedFd<'_>) -> io::Result<Message> {
    let socket = inside(namespace, || {
        let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_nonblocking(true)?;
        socket.connect((ADDRESS, PORT))?;
        Ok::<_, io::Error>(socket)
    })
    .and_then(|made| made)?;
    let socket = UdpSocket::from_std(socket)?;
    let mut query = Message::query();
    let mut asked = Name::from_labels(name.split('.').map(str::as_bytes)).map_err(io::Error::other)?;
    asked.set_fqdn(true);
    query.add_query(Query::query(asked, kind));
    socket.send(&query.to_vec().map_err(io::Error::other)?).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match Message::from_vec(&buffer[..length]) {
            Ok(reply) if reply.metadata.id == query.metadata.id => return Ok(reply),
            _ => {}
        }
    }
}

/// Compares sets: the order is none of the state. What was cut off is not missed.
fn compare(name: &str, kind: RecordType, task: TaskId, reply: &Message, server: &NameServer) -> Result<(), String> {
    let is_wanted = |address: &IpAddr| address.is_ipv4() == (kind == RecordType::A);
    let expected = match server.read(|names| names.answer(task, NameQuestion::Name(name), is_wanted)) {
        NameAnswer::Service(addresses) | NameAnswer::Tasks(addresses) => addresses.into_iter().collect::<BTreeSet<IpAddr>>(),
        // The service went meanwhile.
        _ => return Ok(()),
    };
    if reply.metadata.response_code != ResponseCode::NoError {
        return Err(format!("{name} {kind}: {}", reply.metadata.response_code));
    }
    let answered: BTreeSet<IpAddr> = reply.answers.iter().filter_map(|record| record.data.ip_addr()).collect();
    let is_same = if reply.metadata.truncation { answered.is_subset(&expected) } else { answered == expected };
    if is_same { Ok(()) } else { Err(format!("{name} {kind}: {answered:?} instead of {expected:?}")) }
}
