//! Virtual addresses in a task's own namespace: no proxy and no extra hop.
//!
//! `skep_services` has one verdict map per family, from virtual address to the chain of its service, and one
//! rule in each such chain that gives new connections to the backends in turn. The addresses of services without
//! a backend are in a set that refuses at once (a filter: a reset made in an address-rewriting chain does not
//! arrive). Many namespaces must not all begin with the same backend: each takes the backends in an
//! order of its own, a hash of its seed (the task id), which stays the same for those that stay.

use super::expression::{
    Expr, Family, Register, STATE_KNOWN, Tracked, Verdict, destination, family_is, tracked_as, transport_is,
};
use super::object::Kind;
use super::object::{Chain, ChainKind, Element, Gives, Hook, Map, PRIORITY_DNAT, PRIORITY_FILTER, Rule, Table, Value};
use super::transaction::{Change, Transaction};
use std::net::IpAddr;

/// The table's name.
pub const TABLE: &str = "skep_services";
/// Bytes in a service's key: it becomes part of a chain's name.
pub const KEY_BYTES_MAX: usize = 100;

/// A service as one task sees it on one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What tells it from others in the table, at most [`KEY_BYTES_MAX`] of letters, digits and `_`.
    pub key: String,
    /// Its virtual addresses, at most one of each family is usual.
    pub addresses: Vec<IpAddr>,
    /// The addresses of its published tasks, both families mixed.
    pub backends: Vec<IpAddr>,
}

/// Writes the whole table anew.
pub fn replace_all(seed: &str, services: &[Service]) -> Transaction {
    let table = Table::new(TABLE);
    let mut transaction = Transaction::new();
    transaction.replace_table(&table);
    for (name, kind, hook_priority) in [("output", ChainKind::Nat, PRIORITY_DNAT), ("refuse", ChainKind::Filter, PRIORITY_FILTER)]
    {
        let chain = Chain::base(name, kind, Hook::Output, hook_priority);
        transaction.push(Change::AddChain(table.clone(), chain));
    }
    // Packets of connections that were answered are nearly all, and none of them is for a vacant address.
    let pass = Rule::new("refuse", [tracked_as(Tracked::State, STATE_KNOWN), vec![Expr::Verdict(Verdict::Accept)]]);
    transaction.push(Change::AddRule(table.clone(), pass));
    for family in [Family::V4, Family::V6] {
        add_family(&mut transaction, &table, family);
    }
    for service in services {
        transaction.append(add(seed, service));
    }
    transaction
}

/// The maps of one family and the rules that ask them.
fn add_family(transaction: &mut Transaction, table: &Table, family: Family) {
    let kind = if family == Family::V4 { Kind::Ipv4 } else { Kind::Ipv6 };
    let vacant = vacant_name(family);
    transaction.push(Change::AddMap(table.clone(), Map::named(map_name(family), vec![kind], Gives::Verdicts)));
    transaction.push(Change::AddMap(table.clone(), Map::named(vacant, vec![kind], Gives::Membership)));
    let to = destination(family, Register::FIRST);
    let pick = Expr::Lookup { map: map_name(family).to_owned(), key: Register::FIRST, to: None };
    let rule = Rule::new("output", [family_is(family), vec![to.clone(), pick]]);
    transaction.push(Change::AddRule(table.clone(), rule));
    let is_vacant = Expr::InSet { set: vacant.to_owned(), key: Register::FIRST, inverted: false };
    let is_vacant = || vec![to.clone(), is_vacant.clone()];
    for answer in [[transport_is(6), vec![Expr::RejectReset]], [vec![], vec![Expr::RejectUnreachable]]] {
        let [which, reject] = answer;
        let rule = Rule::new("refuse", [family_is(family), is_vacant(), which, reject]);
        transaction.push(Change::AddRule(table.clone(), rule));
    }
}

/// Adds a service to the table. Its addresses must not be there.
pub fn add(seed: &str, service: &Service) -> Transaction {
    let table = Table::new(TABLE);
    let mut transaction = Transaction::new();
    for family in families(service) {
        transaction.push(Change::AddChain(table.clone(), Chain::plain(chain_name(&service.key, family))));
        transaction.append(rules(seed, service, family));
        transaction.push(Change::AddElements(table.clone(), map_name(family).to_owned(), elements(service, family)));
    }
    transaction
}

/// Replaces the backends of a service that is in the table: established connections stay with theirs.
pub fn replace_backends(seed: &str, service: &Service) -> Transaction {
    let mut transaction = Transaction::new();
    for family in families(service) {
        transaction.push(Change::FlushChain(Table::new(TABLE), chain_name(&service.key, family)));
        transaction.append(rules(seed, service, family));
    }
    transaction
}

/// Removes a service that is in the table with these addresses.
pub fn remove(service: &Service) -> Transaction {
    let table = Table::new(TABLE);
    let mut transaction = Transaction::new();
    for family in families(service) {
        transaction.append(vacate(service, family, false));
        transaction.push(Change::DeleteElements(table.clone(), map_name(family).to_owned(), elements(service, family)));
        transaction.push(Change::FlushChain(table.clone(), chain_name(&service.key, family)));
        transaction.push(Change::DeleteChain(table.clone(), chain_name(&service.key, family)));
    }
    transaction
}

/// The backends of one family in the order in which this namespace takes them.
pub fn order(seed: &str, key: &str, family: Family, backends: &[IpAddr]) -> Vec<IpAddr> {
    let mut ordered: Vec<IpAddr> = backends.iter().copied().filter(|address| Family::of(*address) == family).collect();
    ordered.sort_by_cached_key(|address| (rank(seed, key, *address), *address));
    ordered.dedup();
    ordered
}

fn rules(seed: &str, service: &Service, family: Family) -> Transaction {
    let table = Table::new(TABLE);
    let chain = chain_name(&service.key, family);
    let backends = order(seed, &service.key, family, &service.backends);
    let mut transaction = Transaction::new();
    transaction.append(vacate(service, family, backends.is_empty()));
    if backends.is_empty() {
        return transaction;
    }
    let targets = backends.into_iter().map(Value::from).collect();
    let kind = if family == Family::V4 { Kind::Ipv4 } else { Kind::Ipv6 };
    let mut steps = in_turn(targets, vec![kind]);
    steps.push(Expr::Dnat { family, address: Some(Register::FIRST), port: None });
    transaction.push(Change::AddRule(table, Rule::new(&chain, [steps])));
    transaction
}

/// Puts a service's addresses among the vacant ones or takes them out, wherever they were before.
fn vacate(service: &Service, family: Family, vacant: bool) -> Transaction {
    let table = Table::new(TABLE);
    let addresses = service.addresses.iter().copied().filter(|address| Family::of(*address) == family);
    let members: Vec<Element> = addresses.map(|address| Element::Member(address.into())).collect();
    let set = vacant_name(family).to_owned();
    let mut transaction = Transaction::new();
    transaction.push(Change::AddElements(table.clone(), set.clone(), members.clone()));
    if !vacant {
        // Only what is there can be taken out: it is there now.
        transaction.push(Change::DeleteElements(table, set, members));
    }
    transaction
}

/// Steps that load one of the targets in turn from the first register on.
pub(crate) fn in_turn(targets: Vec<Value>, kinds: Vec<Kind>) -> Vec<Expr> {
    let modulus = u32::try_from(targets.len()).expect("backends are fewer than 2^32");
    let numbered = (0..modulus).map(Value::number).zip(targets).map(|(number, target)| Element::Entry(number, target));
    let map = Map::own(vec![Kind::Number], Gives::Values(kinds), numbered.collect());
    vec![Expr::Turn { to: Register::FIRST, modulus }, Expr::LookupOwn { map, key: Register::FIRST, to: Some(Register::FIRST) }]
}

fn elements(service: &Service, family: Family) -> Vec<Element> {
    let addresses = service.addresses.iter().copied().filter(|address| Family::of(*address) == family);
    let chain = chain_name(&service.key, family);
    addresses.map(|address| Element::Decision(address.into(), Verdict::Goto(chain.clone()))).collect()
}

fn families(service: &Service) -> impl Iterator<Item = Family> {
    let has = |family| service.addresses.iter().any(|address| Family::of(*address) == family);
    [Family::V4, Family::V6].into_iter().filter(move |family| has(*family))
}

fn map_name(family: Family) -> &'static str {
    if family == Family::V4 { "v4" } else { "v6" }
}

fn vacant_name(family: Family) -> &'static str {
    if family == Family::V4 { "vacant4" } else { "vacant6" }
}

fn chain_name(key: &str, family: Family) -> String {
    format!("{}_{key}", if family == Family::V4 { "s4" } else { "s6" })
}

/// A number that depends on every byte of the seed, the service and the address, the same on every build.
pub(crate) fn rank(seed: &str, key: &str, address: IpAddr) -> u64 {
    let bytes = Value::from(address).into_bytes();
    let mut state = 0xcbf2_9ce4_8422_2325u64;
    for byte in seed.bytes().chain([0xff]).chain(key.bytes()).chain([0xff]).chain(bytes) {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // The last bytes of similar addresses reach only the low bits above: spread them.
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}
