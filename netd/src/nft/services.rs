//! Virtual addresses (VIPs) in a task's own namespace: DNAT on output, no proxy and no extra hop.
//!
//! `skep_services` has one verdict map per family, from virtual address to the chain of its service. Each such
//! chain draws a number and looks address and number up in a map of backends: a service costs the kernel a chain, a
//! rule and its elements, and no set of its own, of which a table cannot have many. A few maps share the services, as
//! the kernel goes through the rules that use a map when another one is added. The addresses of
//! services without a backend are in a set that refuses at once (a filter: a reset made in an address-rewriting
//! chain does not arrive). Many namespaces must not all begin with the same backend: each takes the backends in an
//! order of its own, a hash of its seed (the task id), which stays the same for those that stay.

use super::expression::{
    Expr, Family, Register, STATE_KNOWN, Tracked, Verdict, after_address, destination, family_is, tracked_as, transport_is,
};
use super::object::Kind;
use super::object::{Chain, ChainKind, Element, Gives, Hook, Map, PRIORITY_DNAT, PRIORITY_FILTER, Rule, Table, Value};
use super::transaction::{Edit, Transaction};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The table's name.
pub const TABLE: &str = "skep_services";
/// Maps of backends of each family.
const BACKENDS_MAPS: u64 = 8;
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
        transaction.push(Edit::AddChain(table.clone(), chain));
    }
    // Packets of connections that were answered are nearly all, and none of them is for a vacant address.
    let pass = Rule::new("refuse", [tracked_as(Tracked::State, STATE_KNOWN), vec![Expr::Verdict(Verdict::Accept)]]);
    transaction.push(Edit::AddRule(table.clone(), pass));
    for family in [Family::V4, Family::V6] {
        add_family(&mut transaction, &table, family);
    }
    transaction.append(add_all(seed, services));
    transaction
}

/// The maps of one family and the rules that ask them.
fn add_family(transaction: &mut Transaction, table: &Table, family: Family) {
    let kind = if family == Family::V4 { Kind::Ipv4 } else { Kind::Ipv6 };
    let vacant = vacant_name(family);
    transaction.push(Edit::AddMap(table.clone(), Map::named(map_name(family), vec![kind], Gives::Verdicts)));
    transaction.push(Edit::AddMap(table.clone(), Map::named(vacant, vec![kind], Gives::Membership)));
    for number in 0..BACKENDS_MAPS {
        let backends = Map::named(backends_name(family, number), vec![kind, Kind::Mark], Gives::Values(vec![kind]));
        transaction.push(Edit::AddMap(table.clone(), backends));
    }
    let to = destination(family, Register::FIRST);
    let pick = Expr::Lookup { map: map_name(family).to_owned(), key: Register::FIRST, to: None };
    let rule = Rule::new("output", [family_is(family), vec![to.clone(), pick]]);
    transaction.push(Edit::AddRule(table.clone(), rule));
    let is_vacant = Expr::InSet { set: vacant.to_owned(), key: Register::FIRST, inverted: false };
    let is_vacant = || vec![to.clone(), is_vacant.clone()];
    for answer in [[transport_is(6), vec![Expr::RejectReset]], [vec![], vec![Expr::RejectUnreachable]]] {
        let [which, reject] = answer;
        let rule = Rule::new("refuse", [family_is(family), is_vacant(), which, reject]);
        transaction.push(Edit::AddRule(table.clone(), rule));
    }
}

/// Adds services to the table. Their addresses must not be there.
pub fn add_all(seed: &str, services: &[Service]) -> Transaction {
    let table = Table::new(TABLE);
    let mut transaction = Transaction::new();
    for family in [Family::V4, Family::V6] {
        let mut elements = Elements::default();
        for service in services.iter().filter(|service| has_family(service, family)) {
            let chain = chain_name(&service.key, family);
            transaction.push(Edit::AddChain(table.clone(), Chain::plain(&chain)));
            transaction.append(pick(seed, service, family));
            elements.add(seed, service, family);
            elements.verdicts.extend(of_family(service, family).map(|address| {
                let verdict = Verdict::Goto(chain.clone());
                Element::Decision(address.into(), verdict)
            }));
        }
        transaction.append(elements.change(family, Edit::AddElements));
    }
    transaction
}

/// Replaces the backends of a service that is in the table as `held`: established connections stay with theirs.
pub fn replace_backends(seed: &str, held: &Service, wanted: &Service) -> Transaction {
    let mut transaction = Transaction::new();
    for family in [Family::V4, Family::V6].into_iter().filter(|family| has_family(wanted, *family)) {
        let (mut old, mut new) = (Elements::default(), Elements::default());
        old.add(seed, held, family);
        new.add(seed, wanted, family);
        transaction.push(Edit::FlushChain(Table::new(TABLE), chain_name(&wanted.key, family)));
        transaction.append(old.change(family, Edit::DeleteElements));
        transaction.append(new.change(family, Edit::AddElements));
        transaction.append(pick(seed, wanted, family));
    }
    transaction
}

/// Removes services that are in the table just so.
pub fn remove_all(seed: &str, services: &[Service]) -> Transaction {
    let table = Table::new(TABLE);
    let mut transaction = Transaction::new();
    for family in [Family::V4, Family::V6] {
        let mut elements = Elements::default();
        let mut chains = Transaction::new();
        for service in services.iter().filter(|service| has_family(service, family)) {
            elements.add(seed, service, family);
            elements.verdicts.extend(of_family(service, family).map(|address| Element::Member(address.into())));
            chains.push(Edit::FlushChain(table.clone(), chain_name(&service.key, family)));
            chains.push(Edit::DeleteChain(table.clone(), chain_name(&service.key, family)));
        }
        transaction.append(elements.change(family, Edit::DeleteElements));
        transaction.append(chains);
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

/// What services have in the maps of one family.
#[derive(Default)]
struct Elements {
    verdicts: Vec<Element>,
    /// By the number of their map.
    backends: BTreeMap<u64, Vec<Element>>,
    vacant: Vec<Element>,
}

impl Elements {
    /// Adds the backends of a service, or that it has none.
    fn add(&mut self, seed: &str, service: &Service, family: Family) {
        let backends = order(seed, &service.key, family, &service.backends);
        for address in of_family(service, family) {
            if backends.is_empty() {
                self.vacant.push(Element::Member(address.into()));
            }
            let numbered = (0u32..).zip(&backends);
            let entry = |(number, backend): (u32, &IpAddr)| {
                Element::Entry(Value::from(address).then(Value::number(number)), Value::from(*backend))
            };
            self.backends.entry(share(&service.key, BACKENDS_MAPS)).or_default().extend(numbered.map(entry));
        }
    }

    /// Adds or deletes all of them.
    fn change(self, family: Family, how: impl Fn(Table, String, Vec<Element>) -> Edit) -> Transaction {
        let mut transaction = Transaction::new();
        let backends = self.backends.into_iter().map(|(number, elements)| (backends_name(family, number), elements));
        let maps = [(map_name(family).to_owned(), self.verdicts), (vacant_name(family).to_owned(), self.vacant)];
        for (map, elements) in maps.into_iter().chain(backends).filter(|(_, elements)| !elements.is_empty()) {
            transaction.push(how(Table::new(TABLE), map, elements));
        }
        transaction
    }
}

/// The rule of a service's chain, if it has backends of the family.
fn pick(seed: &str, service: &Service, family: Family) -> Transaction {
    let mut transaction = Transaction::new();
    let modulus = u32::try_from(order(seed, &service.key, family, &service.backends).len()).expect("backends are few");
    if modulus > 0 {
        let steps = vec![
            destination(family, Register::FIRST),
            Expr::Turn { to: after_address(family), modulus },
            Expr::Lookup {
                map: backends_name(family, share(&service.key, BACKENDS_MAPS)),
                key: Register::FIRST,
                to: Some(Register::FIRST),
            },
            Expr::Dnat { family, address: Some(Register::FIRST), port: None },
        ];
        transaction.push(Edit::AddRule(Table::new(TABLE), Rule::new(chain_name(&service.key, family), [steps])));
    }
    transaction
}

fn of_family(service: &Service, family: Family) -> impl Iterator<Item = IpAddr> + '_ {
    service.addresses.iter().copied().filter(move |address| Family::of(*address) == family)
}

fn has_family(service: &Service, family: Family) -> bool {
    of_family(service, family).next().is_some()
}

fn map_name(family: Family) -> &'static str {
    if family == Family::V4 { "v4" } else { "v6" }
}

fn backends_name(family: Family, number: u64) -> String {
    format!("{}_{number}", if family == Family::V4 { "backends4" } else { "backends6" })
}

/// Which of so many maps a service's elements are in.
pub(crate) fn share(key: &str, n_maps: u64) -> u64 {
    rank("", key, IpAddr::from([0; 4])) % n_maps
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
