//! The shell of netd: the only process of a node that touches links, addresses,
//! routes, forwarding and neighbour rows, and settings of the network.
//!
//! [`engine`] owns the desired state, the mirror and the kernel's sockets, and is
//! the only place where something happens; [`server`] turns calls into its
//! commands. What should be there is decided in `skep-netd-core`. All of it is
//! netlink: no other program is ever started.

pub mod drain;
pub mod engine;
pub mod kernel;
pub mod namespace;
pub mod nft;
pub mod parse;
pub mod server;
