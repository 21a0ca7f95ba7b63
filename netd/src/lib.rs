//! The shell of netd: the only process of a node that touches links, addresses,
//! routes, forwarding and neighbour rows, tables, and settings of the network.
//!
//! [`engine`] owns the desired state, the mirror and the kernel's sockets, and is
//! the only place where something happens; [`server`] turns calls into its
//! commands. What should be there is decided in `skep-netd-core`. When the rows are
//! in place, [`dns`] and [`tables`] follow ([`settled`]). All of it is
//! [`netlink`], the leaf under every room: the only process that is ever started holds
//! sockets ([`dns::keeper`]). `tests/layers.rs` holds the order of the rooms.

pub mod dns;
pub mod drain;
pub mod engine;
pub mod kernel;
mod listening;
pub mod namespace;
pub mod netlink;
pub mod nft;
pub mod parse;
pub mod probe;
pub mod server;
pub mod settled;
pub mod tables;
#[cfg(test)]
pub(crate) mod testing;
