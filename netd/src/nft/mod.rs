//! nf_tables and conntrack over netlink, without `nft`.
//!
//! A change of a namespace's rules is a [`Transaction`]: the kernel takes all of it or nothing, and the
//! answer to every message of it is read, so that a refusal names the message that was refused. A
//! [`Socket`] belongs for ever to the namespace it was opened in ([`crate::netlink::namespace`]).
//!
//! The tables, one per concern, so that each can be replaced whole without the others noticing:
//!
//! | table | where | what | module |
//! |---|---|---|---|
//! | `skep_services` | task | virtual address → backend | [`services`] |
//! | `skep_names` | task | 127.0.0.11:53 → the port that netd answers on | [`names`] |
//! | `skep_mesh` | task | wire ports of the ingress nodes, and replies back to them | [`mesh`] |
//! | `skep_ingress` | node | published port → wire port of a task | [`ingress`] |
//! | `skep_host_ports` | node | port in mode `host` → a task of the node | [`host_ports`] |
//! | `skep_egress` | node | masquerading behind the gateway bridge | [`egress`] |
//! | `skep_underlay` | node | VXLAN only from members | [`underlay`] |
//! | `skep_guard` | node | what enters by its bridges, and what is passed on to them | [`firewall::guard`] |
//! | `skep_senders` | node's bridges | port, hardware address and addresses belong together | [`firewall::senders`] |
//!
//! Established connections live in conntrack and not in the rules: replacing a whole table moves new
//! connections only. Cutting those to a backend that is gone is [`conntrack`]'s work.
//!
//! Not here: a reader of rules into our own types. What the kernel holds is compared by
//! [`Socket::fingerprint`], never understood; after a restart every table is written anew, which is one
//! transaction and disturbs nothing.

pub mod conntrack;
pub mod egress;
pub mod expression;
pub mod firewall;
pub mod host_ports;
pub mod ingress;
pub mod mesh;
pub mod monitor;
pub mod names;
pub mod object;
pub mod services;
pub mod socket;
pub mod transaction;
pub mod underlay;
pub(crate) mod write;

pub use expression::{Expr, Family, Register, Verdict};
pub use object::{Chain, ChainKind, Element, Hook, Map, Rule, Table, Value};
pub use socket::{Error, Socket};
pub use transaction::{Edit, Transaction};

#[cfg(test)]
mod tests;
