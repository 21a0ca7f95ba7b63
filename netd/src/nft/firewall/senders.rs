//! Anti-spoofing on the ports of our bridges: port, hardware address and addresses belong
//! together, in ARP, neighbour discovery and IP.
//!
//! `bridge` is asked about every frame that comes in on a port of any bridge of the
//! node. One look at the port's name settles it for those of others and for those
//! that lead to other nodes; a task's frame takes one more look, at all three at
//! once. Neighbour discovery carries hardware addresses inside and is read on: one
//! option at most, and that the task's own. Frames of any other kind (VLAN tags,
//! other protocols) do not pass, nor do ports of ours that are not in the table.
//!
//! A port whose attachment says `any-source` is free of the first half: v4, v6 and ARP
//! of any sender pass, but for what only a router says.

use crate::nft::expression::{Base, Expr, Family, Meta, Register, Verdict, input_begins_with, source, transport_is};
use crate::nft::object::{Chain, ChainKind, Element, Gives, Hook, Kind, Map, PRIORITY_BRIDGE_FIRST, Rule, Table, Value};
use crate::nft::transaction::{Edit, Transaction};
use skep_netd_core::{Sender, Senders};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The table's name.
pub const TABLE: &str = "skep_senders";
const PORTS: &str = "ports";
const HARDWARE: &str = "hardware";
const TASK: &str = "task";
const ANY_SOURCE: &str = "any_source";
const DISCOVERY: &str = "discovery";

/// Where the hardware address and the address stand in a key, after the port's name.
const HARDWARE_AT: Register = Register::word(4);
const ADDRESS_AT: Register = Register::word(6);

/// EtherType of IPv4.
const IPV4: u16 = 0x0800;
/// EtherType of ARP.
const ARP: u16 = 0x0806;
/// EtherType of IPv6.
const IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;
/// RFC 4861: solicitations of routers and neighbours, advertisements of both, and
/// redirects are the types from here …
const DISCOVERY_FIRST: u8 = 133;
/// … to here.
const DISCOVERY_LAST: u8 = 137;
const ROUTER_ADVERTISEMENT: u8 = 134;
const REDIRECT: u8 = 137;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// The options that carry the sender's hardware address: of one who asks, of one who answers.
const SOURCE_OPTION: u8 = 1;
const TARGET_OPTION: u8 = 2;
/// RFC 7527: a number by which one who looks for duplicates knows its own question.
const NONCE_OPTION: u8 = 14;
/// RFC 2710 and 3810: reports of listeners, which may be sent before there is an address.
const LISTENER_REPORTS: [u8; 3] = [131, 132, 143];

/// Writes the table anew.
pub fn replace(senders: &Senders) -> Transaction {
    let table = Table::bridge(TABLE);
    let mut transaction = Transaction::new();
    transaction.replace_table(&table);
    for chain in [Chain::plain(TASK), Chain::plain(ANY_SOURCE), Chain::plain(DISCOVERY)] {
        transaction.push(Edit::AddChain(table.clone(), chain));
    }
    for (map, elements) in elements(senders) {
        transaction.push(Edit::AddMap(table.clone(), named(map).with(elements.into_iter().map(Entry::element).collect())));
    }
    let bridged = Chain::base("bridged", ChainKind::Filter, Hook::Prerouting, PRIORITY_BRIDGE_FIRST);
    transaction.push(Edit::AddChain(table.clone(), bridged));
    for rule in bridged_rules().into_iter().chain(task_rules()).chain(any_source_rules()).chain(discovery_rules()) {
        transaction.push(Edit::AddRule(table.clone(), rule));
    }
    transaction
}

/// Brings the table from one content to another: what a task brings and takes away.
pub fn difference(held: &Senders, wanted: &Senders) -> Transaction {
    let table = Table::bridge(TABLE);
    let (mut first, mut then) = (Transaction::new(), Transaction::new());
    for ((map, old), (_, new)) in elements(held).into_iter().zip(elements(wanted)) {
        let change = |entries: Vec<&Entry>| entries.into_iter().cloned().map(Entry::element).collect::<Vec<Element>>();
        let (gone, came) = (change(old.difference(&new).collect()), change(new.difference(&old).collect()));
        if !gone.is_empty() {
            first.push(Edit::DeleteElements(table.clone(), map.to_owned(), gone));
        }
        if !came.is_empty() {
            then.push(Edit::AddElements(table.clone(), map.to_owned(), came));
        }
    }
    first.append(then);
    first
}

/// An element that can be compared: a key, and of [`PORTS`] who sends there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    key: Value,
    sends: Option<Sends>,
}

/// Who sends through a port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sends {
    OtherNodes,
    Task,
    TaskOfAnySource,
}

impl Entry {
    fn element(self) -> Element {
        match self.sends {
            None => Element::Member(self.key),
            Some(Sends::OtherNodes) => Element::Decision(self.key, Verdict::Accept),
            Some(Sends::Task) => Element::Decision(self.key, Verdict::Goto(TASK.to_owned())),
            Some(Sends::TaskOfAnySource) => Element::Decision(self.key, Verdict::Goto(ANY_SOURCE.to_owned())),
        }
    }
}

/// What each map of the table holds.
fn elements(Senders { trusted, senders, any_source }: &Senders) -> [(&'static str, BTreeSet<Entry>); 4] {
    let member = |key| Entry { key, sends: None };
    let tied = |sender: &Sender| Value::interface(sender.port.as_str()).then(Value::hardware(sender.hardware.0));
    let of_family = |family: Family| {
        let all = senders.iter().flat_map(|sender| sender.addresses.iter().map(move |address| (sender, *address)));
        let found = all.filter(move |(_, address)| Family::of(*address) == family);
        found.map(|(sender, address)| member(tied(sender).then(address.into()))).collect()
    };
    let ports = trusted.iter().map(|port| (port, Sends::OtherNodes));
    let ports = ports.chain(senders.iter().map(|sender| (&sender.port, Sends::Task)));
    let ports = ports.chain(any_source.iter().map(|port| (port, Sends::TaskOfAnySource)));
    let ports = ports.map(|(port, sends)| Entry { key: Value::interface(port.as_str()), sends: Some(sends) });
    [
        (PORTS, ports.collect()),
        (HARDWARE, senders.iter().map(|sender| member(tied(sender))).collect()),
        (map_name(Family::V4), of_family(Family::V4)),
        (map_name(Family::V6), of_family(Family::V6)),
    ]
}

fn named(map: &str) -> Map {
    let (kinds, gives) = match map {
        PORTS => (vec![Kind::Interface], Gives::Verdicts),
        HARDWARE => (vec![Kind::Interface, Kind::Hardware], Gives::Membership),
        _ if map == map_name(Family::V4) => (vec![Kind::Interface, Kind::Hardware, Kind::Ipv4], Gives::Membership),
        _ => (vec![Kind::Interface, Kind::Hardware, Kind::Ipv6], Gives::Membership),
    };
    Map::named(map, kinds, gives)
}

fn map_name(family: Family) -> &'static str {
    if family == Family::V4 { "v4" } else { "v6" }
}

fn bridged_rules() -> Vec<Rule> {
    let by_port = vec![
        Expr::Meta { to: Register::FIRST, key: Meta::InputName },
        Expr::Lookup { map: PORTS.to_owned(), key: Register::FIRST, to: None },
    ];
    let unknown = vec![input_begins_with("sk"), drop_it()];
    vec![Rule::new("bridged", [by_port]), Rule::new("bridged", unknown)]
}

fn task_rules() -> Vec<Rule> {
    let rule = |groups: Vec<Vec<Expr>>| Rule::new(TASK, groups);
    let any = |family| if family == Family::V4 { Ipv4Addr::UNSPECIFIED.into() } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let is_discovery = (DISCOVERY_FIRST..=DISCOVERY_LAST)
        .map(|kind| rule(vec![ether_type(IPV6), transport_is(ICMPV6), icmp_is(kind), goto(DISCOVERY)]));
    let mut rules = vec![rule(vec![ether_type(IPV4), port_and_sender(), vec![source(Family::V4, ADDRESS_AT)], tied(Family::V4)])];
    rules.extend(is_discovery);
    // What the kernel cannot make out the transport of is not asked further.
    let has_transport = vec![Expr::Meta { to: Register::FIRST, key: Meta::Transport }];
    let from_own = vec![source(Family::V6, ADDRESS_AT)];
    rules.push(rule(vec![ether_type(IPV6), has_transport, port_and_sender(), from_own, tied(Family::V6)]));
    rules.extend(LISTENER_REPORTS.map(|kind| {
        let from_nobody = vec![source(Family::V6, Register::FIRST), equal(Register::FIRST, Value::from(any(Family::V6)))];
        rule(vec![ether_type(IPV6), transport_is(ICMPV6), icmp_is(kind), from_nobody, own_hardware(port_and_sender())])
    }));
    // Inside ARP: who sends, by both addresses. Who looks for duplicates has none yet.
    let inside = vec![Expr::Meta { to: Register::FIRST, key: Meta::InputName }, network(HARDWARE_AT, 8, 6)];
    let arp = |more: Vec<Vec<Expr>>| {
        let mut groups = vec![ether_type(ARP), own_hardware_then(port_and_sender()), inside.clone()];
        groups.extend(more);
        rule(groups)
    };
    rules.push(arp(vec![vec![network(ADDRESS_AT, 14, 4)], tied(Family::V4)]));
    let of_nobody = vec![network(ADDRESS_AT, 14, 4), equal(ADDRESS_AT, Value::from(any(Family::V4)))];
    rules.push(arp(vec![of_nobody, own_hardware(Vec::new())]));
    rules.push(rule(vec![drop_it()]));
    rules
}

fn any_source_rules() -> Vec<Rule> {
    let rule = |groups: Vec<Vec<Expr>>| Rule::new(ANY_SOURCE, groups);
    let accept = || vec![Expr::Verdict(Verdict::Accept)];
    let has_transport = vec![Expr::Meta { to: Register::FIRST, key: Meta::Transport }];
    let of_routers =
        [ROUTER_ADVERTISEMENT, REDIRECT].map(|kind| rule(vec![ether_type(IPV6), transport_is(ICMPV6), icmp_is(kind), drop_it()]));
    let mut rules = vec![rule(vec![ether_type(IPV4), accept()]), rule(vec![ether_type(ARP), accept()])];
    rules.extend(of_routers);
    rules.push(rule(vec![ether_type(IPV6), has_transport, accept()]));
    rules.push(rule(vec![drop_it()]));
    rules
}

fn discovery_rules() -> Vec<Rule> {
    let rule = |groups: Vec<Vec<Expr>>| Rule::new(DISCOVERY, groups);
    let from_own = || [port_and_sender(), vec![source(Family::V6, ADDRESS_AT)], tied_then(Family::V6)].concat();
    let about_own = || [port_and_sender(), vec![target(ADDRESS_AT)], tied_then(Family::V6)].concat();
    let own_option = |kind| {
        let option = vec![icmp(Register::FIRST, 24, 2), equal(Register::FIRST, option(kind))];
        let inside = vec![Expr::Meta { to: Register::FIRST, key: Meta::InputName }, icmp(HARDWARE_AT, 26, 6)];
        [long(32), option, own_hardware(inside)].concat()
    };
    let accept = || vec![Expr::Verdict(Verdict::Accept)];
    let nobody =
        || vec![source(Family::V6, Register::FIRST), equal(Register::FIRST, Value::from(IpAddr::from(Ipv6Addr::UNSPECIFIED)))];
    let nonce = || [long(32), vec![icmp(Register::FIRST, 24, 2), equal(Register::FIRST, option(NONCE_OPTION))]].concat();
    vec![
        rule(vec![icmp_is(SOLICITATION), long(24), from_own(), accept()]),
        rule(vec![icmp_is(SOLICITATION), from_own(), own_option(SOURCE_OPTION)]),
        rule(vec![icmp_is(SOLICITATION), nobody(), long(24), about_own(), accept()]),
        rule(vec![icmp_is(SOLICITATION), nobody(), nonce(), about_own(), accept()]),
        rule(vec![icmp_is(ADVERTISEMENT), long(24), from_own(), about_own(), accept()]),
        rule(vec![icmp_is(ADVERTISEMENT), from_own(), about_own(), own_option(TARGET_OPTION)]),
        rule(vec![drop_it()]),
    ]
}

/// The port and the frame's source, where a key begins.
fn port_and_sender() -> Vec<Expr> {
    vec![
        Expr::Meta { to: Register::FIRST, key: Meta::InputName },
        Expr::Payload { to: HARDWARE_AT, base: Base::Link, offset: 6, length: 6 },
    ]
}

/// Accepts when port, hardware address and address belong together.
fn tied(family: Family) -> Vec<Expr> {
    let mut steps = tied_then(family);
    steps.push(Expr::Verdict(Verdict::Accept));
    steps
}

fn tied_then(family: Family) -> Vec<Expr> {
    vec![Expr::InSet { set: map_name(family).to_owned(), key: Register::FIRST, inverted: false }]
}

/// Accepts when port and hardware address, as these steps load them, belong together.
fn own_hardware(load: Vec<Expr>) -> Vec<Expr> {
    let mut steps = own_hardware_then(load);
    steps.push(Expr::Verdict(Verdict::Accept));
    steps
}

fn own_hardware_then(mut load: Vec<Expr>) -> Vec<Expr> {
    load.push(Expr::InSet { set: HARDWARE.to_owned(), key: Register::FIRST, inverted: false });
    load
}

/// Asked of the frame itself: of one with a VLAN tag the kernel tells the type inside.
fn ether_type(kind: u16) -> Vec<Expr> {
    vec![
        Expr::Payload { to: Register::FIRST, base: Base::Link, offset: 12, length: 2 },
        Expr::Equal { register: Register::FIRST, value: kind.to_be_bytes().to_vec() },
    ]
}

fn icmp_is(kind: u8) -> Vec<Expr> {
    vec![icmp(Register::FIRST, 0, 1), Expr::Equal { register: Register::FIRST, value: vec![kind] }]
}

/// Bytes of the ICMPv6 message.
fn icmp(to: Register, offset: u32, length: u32) -> Expr {
    Expr::Payload { to, base: Base::Transport, offset, length }
}

/// Bytes behind the Ethernet header.
fn network(to: Register, offset: u32, length: u32) -> Expr {
    Expr::Payload { to, base: Base::Network, offset, length }
}

/// The address that a neighbour is asked for, or tells of.
fn target(to: Register) -> Expr {
    icmp(to, 8, 16)
}

/// Holds when the v6 packet has so many bytes behind its header.
fn long(n_bytes: u16) -> Vec<Expr> {
    let length = Expr::Equal { register: Register::FIRST, value: n_bytes.to_be_bytes().to_vec() };
    vec![network(Register::FIRST, 4, 2), length]
}

/// An option of eight bytes begins so.
fn option(kind: u8) -> Value {
    Value::port(u16::from_be_bytes([kind, 1]))
}

fn equal(register: Register, value: Value) -> Expr {
    Expr::Equal { register, value: value.into_bytes() }
}

fn goto(chain: &str) -> Vec<Expr> {
    vec![Expr::Verdict(Verdict::Goto(chain.to_owned()))]
}

fn drop_it() -> Vec<Expr> {
    vec![Expr::Verdict(Verdict::Drop)]
}
