//! What the shim process does: one container, its stdio, its health, its exit. Nothing here starts a thread.

pub mod container;
pub mod entry;
pub mod health;
pub mod inside;
pub mod inside_mounts;
pub mod network;
pub mod peers;
pub mod poll;
pub mod probe;
pub mod rootfs;
pub mod seccomp;
pub mod shim;
mod syscall_numbers;
pub mod sysctls;
pub mod user;
