//! The rules as real traffic meets them.

mod other_firewalls;
mod published_ports;
mod transactions;
mod virtual_addresses;
mod ways_out;

use super::expression::Verdict;
use super::object::{Chain, Rule, Table};
use super::services::{self, Service};
use super::*;
use crate::tables::conntrack_flush::{ConntrackFlush, FlushOrder};
use crate::testing::Namespace;
use skep_model::endpoint::{Transport, wire_port};
use skep_model::{ServiceId, TaskId};
use skep_netd_core::{
    EgressSubnet, HostPort, IngressNode, IngressService, ListeningPort, Mac, Name, Namespace as InKernel, PortKey, Vanished,
    WirePort, ingress_mark,
};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(5);

/// A TCP server in a namespace that greets every connection with its name and then echoes one byte.
fn greet(namespace: &Namespace, address: &str, name: u8) {
    let listener = namespace.run(|| TcpListener::bind(address).expect("the address is free"));
    // The thread ends with the test's process; its listener keeps the namespace no longer than that.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let peer = stream.peer_addr().expect("a peer");
                let _ = stream.write_all(format!("{} {peer}\n", char::from(name)).as_bytes());
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() {
                    let _ = stream.write_all(&[name]);
                }
            });
        }
    });
}

/// A UDP server that answers every datagram with its name.
fn answer(namespace: &Namespace, address: &str, name: u8) {
    let socket = namespace.run(|| UdpSocket::bind(address).expect("the address is free"));
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&[name], peer);
        }
    });
}

struct Client {
    stream: TcpStream,
    name: char,
    seen_as: SocketAddr,
}

fn connect(namespace: &Namespace, address: &str) -> std::io::Result<Client> {
    let mut stream = namespace.run(|| TcpStream::connect_timeout(&address.parse().expect("an address"), DEADLINE))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut line = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    let line = String::from_utf8(line).expect("a greeting");
    let (name, peer) = line.trim().split_once(' ').expect("name and peer");
    Ok(Client { stream, name: name.parse().expect("one letter"), seen_as: peer.parse().expect("an address") })
}

fn names(namespace: &Namespace, address: &str, n: usize) -> String {
    (0..n).map(|_| connect(namespace, address).expect("a connection").name).collect()
}

fn ask(socket: &UdpSocket, address: &str) -> char {
    socket.send_to(b"?", address).expect("it is sent");
    let mut buffer = [0; 64];
    socket.recv_from(&mut buffer).expect("an answer in time");
    buffer[0].into()
}

fn udp(namespace: &Namespace, address: &str) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind(address).expect("the address is free"));
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    socket
}

fn link(name: &str) -> Name {
    Name::new(name).expect("the name of a link")
}

/// One service with these ports, each with its wire port.
fn leads_to(ports: &[(PortKey, u16)], backends: &[&str]) -> ingress::Services {
    let service = IngressService { ports: ports.iter().copied().collect(), backends: addresses(backends) };
    [(ServiceId::from_random([1; 16]), service)].into()
}

/// The whole table of a node where no process listens.
fn answers_on(services: &ingress::Services) -> Transaction {
    ingress::replace("node", services, &BTreeSet::new())
}

fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|address| address.parse().expect("an address")).collect()
}

fn web(backends: &[&str]) -> Service {
    Service { key: "web".to_owned(), addresses: addresses(&["10.7.0.100", "fd07::100"]), backends: addresses(backends) }
}

/// A client namespace that reaches three servers `a`, `b`, `c` over links of their own, v4 and v6.
fn cluster() -> (Namespace, Vec<Namespace>) {
    let client = Namespace::new();
    let servers: Vec<_> = (1..=3)
        .map(|n| {
            let server = Namespace::new();
            let (ours4, ours6) = (format!("10.7.{n}.1/24"), format!("fd07:{n}::1/64"));
            let (theirs4, theirs6) = (format!("10.7.{n}.2/24"), format!("fd07:{n}::2/64"));
            client.connect(&format!("v{n}"), &[&ours4, &ours6], &server, "eth0", &[&theirs4, &theirs6]);
            // The client's source address may be that of another link.
            server.default_route(&format!("10.7.{n}.1"));
            server.default_route(&format!("fd07:{n}::1"));
            let name = b'a' + u8::try_from(n - 1).expect("three servers");
            greet(&server, &format!("10.7.{n}.2:80"), name);
            greet(&server, &format!("[fd07:{n}::2]:80"), name);
            answer(&server, &format!("10.7.{n}.2:90"), name);
            server
        })
        .collect();
    client.default_route("10.7.1.2");
    client.default_route("fd07:1::2");
    (client, servers)
}

const ALL: [&str; 6] = ["10.7.1.2", "10.7.2.2", "10.7.3.2", "fd07:1::2", "fd07:2::2", "fd07:3::2"];

/// A task, a node that forwards, and a host outside; links `tasks` (task side) and `out` of the node.
fn behind_a_node() -> (Namespace, Namespace, Namespace) {
    let (task, node, outside) = (Namespace::new(), Namespace::new(), Namespace::new());
    node.connect("tasks", &["172.20.0.1/24", "fd20::1/64"], &task, "eth0", &["172.20.0.2/24", "fd20::2/64"]);
    node.connect("out", &["203.0.113.1/24", "fd99::1/64"], &outside, "eth0", &["203.0.113.9/24", "fd99::9/64"]);
    node.sysctl("ipv4/ip_forward", "1");
    node.sysctl("ipv6/conf/all/forwarding", "1");
    task.default_route("172.20.0.1");
    task.default_route("fd20::1");
    (task, node, outside)
}
