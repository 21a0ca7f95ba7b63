//! What enters the node by its bridges, what it passes on between them and the world,
//! and who may send what through which port of a bridge.
//!
//! A task may be hostile and have raw sockets (NET_RAW is a default of every runtime).
//! The rules hold for both families:
//!
//! | from | to | passes |
//! |---|---|---|
//! | a task | any address of 127.0.0.0/8, `::1`, or one mapped from v4 | nothing |
//! | a task | the data-path port of anybody | nothing: who can speak VXLAN is on every network |
//! | a task, by an overlay's bridge | the node itself | answers, ICMP echo and neighbour discovery |
//! | a task, by the gateway bridge | the node's other addresses | everything; where nodes are isolated, as by an overlay |
//! | a task, by the gateway bridge | the world | everything |
//! | anybody but the node | a task | connections to published ports, answers, errors about them |
//! | a port of a bridge | the bridge | the task's own hardware address and addresses (any, if the attachment says `any-source`), no router advertisement, no redirect |
//!
//! [`guard`] is asked about the node's packets, [`senders`] about the frames of its
//! bridges. Both look first at what nearly all packets of a node have in common, so
//! that they cost little who is not concerned.

pub mod guard;
pub mod others;
pub mod senders;
