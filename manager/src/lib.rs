//! The manager's shell: what stands between the deciding core and disk, network and clock.

pub mod disk;
