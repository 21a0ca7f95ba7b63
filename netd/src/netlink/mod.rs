//! Netlink as every room of netd speaks it: messages and attributes, the kernel's
//! answers, sockets in other network namespaces, and one poller over many sockets.
//!
//! This is the lowest room: it knows nothing of tables, links or tasks, and imports
//! none of the others. What is said over a socket is its owner's affair: rtnetlink in
//! [`crate::kernel`], nf_tables and conntrack in [`crate::nft`]. Only lists of sockets
//! (`sock_diag`) are here whole, as two rooms ask for them.
//!
//! A netlink socket belongs for ever to the namespace it was opened in
//! ([`namespace::inside`]). The kernel works through a request before `send` returns,
//! so answers are there to be read and no read waits.

pub(crate) mod answer;
pub mod namespace;
pub(crate) mod poller;
pub(crate) mod sock_diag;
pub(crate) mod socket;
pub(crate) mod uapi;
pub(crate) mod wire;

pub use answer::Failure;
