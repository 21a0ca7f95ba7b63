//! What daemons ask of the machine that they run on: clocks and timers, random bytes, files
//! that are replaced whole, free space of a disk, sockets of this machine, and how a process
//! begins and ends.
//!
//! Invariants: it knows no cluster, no certificate and no key; wall time comes from
//! [`clock::now`] alone and what is timed from [`clock::boot`]; every connection attempt has
//! a deadline; a panic that nobody catches ends the process with its sentence.

pub mod chance;
pub mod clock;
pub mod file;
pub mod process;
pub mod room;
pub mod unix;
