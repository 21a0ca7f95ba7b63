//! Frames, written byte by byte as a hostile task would, and raw sockets to send and to see them.

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use skep_netd_core::Mac;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a frame may be on its way.
const DEADLINE: Duration = Duration::from_secs(10);

/// A link's own hardware address, in the namespace of this thread.
pub fn hardware_of(link: &str) -> Mac {
    let text = nix::ifaddrs::getifaddrs().unwrap().find_map(|found| {
        let address = found.address.filter(|_| found.interface_name == link)?;
        address.as_link_addr()?.addr()
    });
    Mac(text.unwrap_or_else(|| panic!("{link} has a hardware address")))
}

fn raw() -> OwnedFd {
    socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).unwrap()
}

fn at(link: &str) -> libc::sockaddr_ll {
    // SAFETY: zeros are a valid value of this structure of numbers.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = nix::net::if_::if_nametoindex(link).unwrap() as i32;
    address
}

/// Sends a frame as it is.
pub fn transmit(link: &str, frame: &[u8]) {
    let (socket, address) = (raw(), at(link));
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: frame and address live across the call, and their lengths are given.
    let sent = unsafe {
        let address = (&raw const address).cast();
        libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, address, length)
    };
    assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
}

/// Sees every frame that comes to a link.
pub struct Capture(OwnedFd);

impl Capture {
    pub fn open(link: &str) -> Self {
        let (socket, address) = (raw(), at(link));
        let length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the address lives across the call, and its length is given.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
        let limit = nix::sys::time::TimeVal::new(1, 0);
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::ReceiveTimeout, &limit).unwrap();
        Self(socket)
    }

    /// Waits for a frame; others come in between.
    pub fn expect(&self, frame: &[u8], what: &str) {
        self.expect_without(frame, &[], what);
    }

    /// Waits for a frame, before which another must not come.
    pub fn expect_without(&self, frame: &[u8], other: &[u8], what: &str) {
        let start = Instant::now();
        let mut buffer = [0; 2048];
        while start.elapsed() < DEADLINE {
            let Ok(length) = nix::sys::socket::recv(self.0.as_raw_fd(), &mut buffer, nix::sys::socket::MsgFlags::empty()) else {
                continue;
            };
            assert!(other.is_empty() || !seen_as(&buffer[..length], other), "it arrives: {what}");
            if seen_as(&buffer[..length], frame) {
                return;
            }
        }
        panic!("it does not arrive: {what}");
    }
}

/// A tag is taken out of a frame before it is seen.
fn seen_as(seen: &[u8], sent: &[u8]) -> bool {
    let untagged = || sent[12..14] == [0x81, 0] && seen[12..] == sent[16..] && seen[..12] == sent[..12];
    seen == sent || (sent.len() > 16 && untagged())
}

pub fn v6(address: IpAddr) -> Ipv6Addr {
    let IpAddr::V6(address) = address else { panic!("{address} is of v6") };
    address
}

pub fn link_local(Mac([a, b, c, d, e, f]): Mac) -> Ipv6Addr {
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f))
}

pub fn ethernet(from: Mac, to: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&to.0[..], &from.0, &kind.to_be_bytes(), payload].concat();
    // The least that a wire carries.
    frame.resize(frame.len().max(60), 0);
    frame
}

pub fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat()
}

fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let bytes = parts.concat();
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

pub fn udp4(from_hw: Mac, to_hw: Mac, from: Ipv4Addr, to: Ipv4Addr, from_port: u16, to_port: u16, data: &[u8]) -> Vec<u8> {
    let udp_length = (8 + data.len() as u16).to_be_bytes();
    let total = (28 + data.len() as u16).to_be_bytes();
    let mut header = [&[0x45, 0], &total[..], &[0, 0, 0, 0, 64, 17, 0, 0], &from.octets(), &to.octets()].concat();
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum);
    // No checksum of its own: v4 allows it.
    let udp = [&from_port.to_be_bytes()[..], &to_port.to_be_bytes(), &udp_length, &[0, 0], data].concat();
    ethernet(from_hw, to_hw, 0x0800, &[header, udp].concat())
}

fn ip6(next: u8, from: Ipv6Addr, to: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0][..], &length, &[next, 255], &from.octets(), &to.octets(), payload].concat()
}

fn sum6(next: u8, from: Ipv6Addr, to: Ipv6Addr, payload: &[u8]) -> [u8; 2] {
    let length = (payload.len() as u32).to_be_bytes();
    checksum(&[&from.octets(), &to.octets(), &length, &[0, 0, 0, next], payload])
}

pub fn udp6(from_hw: Mac, to_hw: Mac, from: Ipv6Addr, to: Ipv6Addr, from_port: u16, to_port: u16, data: &[u8]) -> Vec<u8> {
    let length = (8 + data.len() as u16).to_be_bytes();
    let mut udp = [&from_port.to_be_bytes()[..], &to_port.to_be_bytes(), &length, &[0, 0], data].concat();
    let sum = sum6(17, from, to, &udp);
    udp[6..8].copy_from_slice(&sum);
    ethernet(from_hw, to_hw, 0x86dd, &ip6(17, from, to, &udp))
}

/// `by` is the frame's source, then the sender inside.
pub fn arp(operation: u16, (frame, hardware, address): (Mac, Mac, Ipv4Addr), to: Mac, target: Ipv4Addr) -> Vec<u8> {
    let operation = operation.to_be_bytes();
    let body = [&[0, 1, 8, 0, 6, 4][..], &operation, &hardware.0, &address.octets(), &to.0, &target.octets()];
    ethernet(frame, to, 0x0806, &body.concat())
}

fn icmp6(from_hw: Mac, to_hw: Mac, from: Ipv6Addr, to: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let sum = sum6(58, from, to, &message);
    message[2..4].copy_from_slice(&sum);
    ethernet(from_hw, to_hw, 0x86dd, &ip6(58, from, to, &message))
}

fn option(kind: u8, hardware: Mac) -> Vec<u8> {
    [&[kind, 1][..], &hardware.0].concat()
}

pub fn advertisement(from_hw: Mac, to_hw: Mac, from: Ipv6Addr, to: Ipv6Addr, target: Ipv6Addr, told: Option<Mac>) -> Vec<u8> {
    let told = told.map(|hardware| option(2, hardware)).unwrap_or_default();
    icmp6(from_hw, to_hw, from, to, [&[136, 0, 0, 0, 0x60, 0, 0, 0][..], &target.octets(), &told].concat())
}

pub fn solicitation(from_hw: Mac, to_hw: Mac, from: Ipv6Addr, target: Ipv6Addr, told: Option<(u8, Mac)>) -> Vec<u8> {
    let told = told.map(|(kind, hardware)| option(kind, hardware)).unwrap_or_default();
    icmp6(from_hw, to_hw, from, target, [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &told].concat())
}

pub fn router_advertisement(from_hw: Mac, to_hw: Mac, from: Ipv6Addr) -> Vec<u8> {
    let message = [&[134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0][..], &option(1, from_hw)].concat();
    icmp6(from_hw, to_hw, from, "ff02::1".parse().unwrap(), message)
}

pub fn redirect(from_hw: Mac, to_hw: Mac, from: Ipv6Addr, to: Ipv6Addr, about: Ipv6Addr) -> Vec<u8> {
    let message = [&[137, 0, 0, 0, 0, 0, 0, 0][..], &from.octets(), &about.octets(), &option(2, from_hw)].concat();
    icmp6(from_hw, to_hw, from, to, message)
}

/// The same v6 packet with an empty header of hop-by-hop options before its ICMP message.
pub fn behind_options(frame: &[u8]) -> Vec<u8> {
    let mut changed = [&frame[..54], &[58, 0, 1, 4, 0, 0, 0, 0], &frame[54..]].concat();
    let length = u16::from_be_bytes([frame[18], frame[19]]) + 8;
    changed[18..20].copy_from_slice(&length.to_be_bytes());
    changed[20] = 0;
    changed
}

/// A frame as VXLAN carries it.
pub fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    [&[8, 0, 0, 0, a, b, c, 0][..], frame].concat()
}
