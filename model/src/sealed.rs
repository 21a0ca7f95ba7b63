//! A value that only a shell with the right key can read.
//!
//! Cores, the log, snapshots and peers handle nothing else of a secret. The
//! associated data bound into the seal is kind, id, version and generation, so a
//! record moved elsewhere, or an older one put back, does not open.

use std::fmt;

/// Bytes sealed with AES-256-GCM under one generation of a key.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Sealed {
    /// Which generation of the key was used.
    pub key_generation: u32,
    /// The nonce, 96 random bits.
    pub nonce: [u8; 12],
    /// Ciphertext and tag.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes, generation {})", self.bytes.len(), self.key_generation)
    }
}
