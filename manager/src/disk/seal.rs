//! The seal of every record that a manager writes to its own disk.
//!
//! AES-256-GCM under a data key of this node. A data key has a *generation*: new records are sealed with the
//! current one, older generations stay known until no live record needs them. The associated data names the
//! node, the generation, the kind of the record, its index and its term, so that a record moved to another
//! place, or to another node, does not open. Nonces are 96 random bits from the operating system, therefore
//! [`RECORDS_PER_GENERATION_MAX`] bounds how many records one key may seal.
//!
//! A sealed record is `generation (4 bytes, big endian) ‖ nonce (12) ‖ ciphertext ‖ tag (16)`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::RwLock;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

/// How many records one key generation may seal. With random 96-bit nonces NIST SP 800-38D (§8.3) allows 2^32,
/// which keeps the chance of a repeated nonce below 2^-32.
pub const RECORDS_PER_GENERATION_MAX: u64 = 1 << 32;

/// From this many records on, [`RecordSeal::rotation_is_due`] asks for a new generation.
pub const RECORDS_BEFORE_ROTATION: u64 = 1 << 31;

/// Bytes that sealing adds to a record.
pub const SEAL_OVERHEAD: usize = GENERATION_LEN + NONCE_LEN + TAG_LEN;

const GENERATION_LEN: usize = 4;
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
pub(super) const KEY_CHECK_LEN: usize = 16;

/// Why a record was not sealed or not opened. No variant carries key or record bytes.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum SealError {
    /// No key of this generation was given.
    #[error("the data key of generation {generation} is not in the keystore")]
    NoKey {
        /// The generation that is missing.
        generation: u32,
    },
    /// The generation has sealed as many records as random nonces allow.
    #[error("the data key of generation {generation} has sealed all the {RECORDS_PER_GENERATION_MAX} records it may; rotate it")]
    Exhausted {
        /// The generation that is used up.
        generation: u32,
    },
    /// The bytes are not what was sealed at this place with this key.
    #[error("the record does not open with the data key of generation {generation}")]
    DoesNotOpen {
        /// The generation that the record names.
        generation: u32,
    },
    /// Too short to be a sealed record.
    #[error("the record is too short to be sealed")]
    Short,
    /// The generation exists already, with another key.
    #[error("there already is another data key of generation {generation}")]
    Clash {
        /// The generation that was given twice.
        generation: u32,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes for a nonce")]
    NoRandomness,
}

/// What a sealed record is; part of its associated data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// A log entry, with the number of its raft entry type.
    Entry(i32),
    /// The raft hard state.
    HardState,
    /// The membership.
    Membership,
    /// What the newest snapshot is.
    SnapshotMeta,
    /// Where the log begins.
    Compacted,
    /// The applied hint.
    Applied,
    /// A chunk of a snapshot file.
    SnapshotChunk {
        /// Its number, from 0.
        ordinal: u64,
        /// Whether the file ends with it.
        last: bool,
    },
}

impl RecordKind {
    fn code(self) -> (u8, u64) {
        match self {
            RecordKind::Entry(entry_type) => (1, entry_type as u64),
            RecordKind::HardState => (2, 0),
            RecordKind::Membership => (3, 0),
            RecordKind::SnapshotMeta => (4, 0),
            RecordKind::Compacted => (5, 0),
            RecordKind::Applied => (6, 0),
            RecordKind::SnapshotChunk { ordinal, last } => (if last { 8 } else { 7 }, ordinal),
        }
    }
}

/// The data keys of this node, by generation, and what they have sealed so far.
pub struct RecordSeal {
    node_id: String,
    keys: RwLock<Keys>,
}

struct Keys {
    current: u32,
    by_generation: BTreeMap<u32, DataKey>,
}

struct DataKey {
    /// Wiped when dropped (feature `zeroize` of the cipher crate).
    cipher: Aes256Gcm,
    check: [u8; KEY_CHECK_LEN],
    n_sealed: std::sync::atomic::AtomicU64,
}

impl fmt::Debug for RecordSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordSeal").field("node_id", &self.node_id).field("current", &self.current()).finish_non_exhaustive()
    }
}

impl RecordSeal {
    /// A seal for the node `node_id` that writes with the generation `current`.
    ///
    /// # Errors
    /// [`SealError::NoKey`] if `current` is not among `keys`, [`SealError::Clash`] if a generation comes twice
    /// with different keys.
    pub fn new(
        node_id: impl Into<String>,
        keys: impl IntoIterator<Item = (u32, Zeroizing<[u8; 32]>)>,
        current: u32,
    ) -> Result<Self, SealError> {
        let seal = Self { node_id: node_id.into(), keys: RwLock::new(Keys { current, by_generation: BTreeMap::new() }) };
        for (generation, key) in keys {
            seal.add_key(generation, &key)?;
        }
        match seal.read().by_generation.contains_key(&current) {
            true => {}
            false => return Err(SealError::NoKey { generation: current }),
        }
        Ok(seal)
    }

    /// The node whose records these are.
    pub fn node_id(&self) -> &str {
        &self.node_id
    }

    /// The generation that seals new records.
    pub fn current(&self) -> u32 {
        self.read().current
    }

    /// Makes another generation known; [`super::Change::RotateTo`] starts to use it.
    ///
    /// # Errors
    /// [`SealError::Clash`] if the generation is known with another key.
    pub fn add_key(&self, generation: u32, key: &Zeroizing<[u8; 32]>) -> Result<(), SealError> {
        let check = key_check(&self.node_id, generation, key);
        let mut keys = self.write();
        if let Some(known) = keys.by_generation.get(&generation) {
            return match known.check == check {
                true => Ok(()),
                false => Err(SealError::Clash { generation }),
            };
        }
        let aes_key: &Key<Aes256Gcm> = key.as_slice().try_into().expect("a data key has 32 bytes");
        let key = DataKey { cipher: Aes256Gcm::new(aes_key), check, n_sealed: Default::default() };
        keys.by_generation.insert(generation, key);
        Ok(())
    }

    /// Forgets a generation that nothing uses any more; the current one stays. Says whether it was forgotten.
    pub fn forget_key(&self, generation: u32) -> bool {
        let mut keys = self.write();
        keys.current != generation && keys.by_generation.remove(&generation).is_some()
    }

    /// Whether the current generation has sealed so much that it should be replaced soon.
    pub fn rotation_is_due(&self) -> bool {
        self.n_sealed(self.current()) >= RECORDS_BEFORE_ROTATION
    }

    /// Seals `plaintext` with the current generation, bound to its kind, index and term.
    ///
    /// # Errors
    /// [`SealError::Exhausted`] at the bound of the generation, [`SealError::NoRandomness`].
    pub fn seal(&self, kind: RecordKind, index: u64, term: u64, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        let keys = self.read();
        let generation = keys.current;
        let key = keys.key(generation)?;
        let n = key.n_sealed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if n >= RECORDS_PER_GENERATION_MAX {
            return Err(SealError::Exhausted { generation });
        }
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|_| SealError::NoRandomness)?;
        let payload = Payload { msg: plaintext, aad: &self.associated(generation, kind, index, term) };
        let sealed = key.cipher.encrypt(&Nonce::from(nonce), payload).map_err(|_| SealError::Exhausted { generation })?;
        let mut out = Vec::with_capacity(GENERATION_LEN + NONCE_LEN + sealed.len());
        out.extend_from_slice(&generation.to_be_bytes());
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        Ok(out)
    }

    /// Opens what [`RecordSeal::seal`] sealed with the same kind, index and term.
    ///
    /// # Errors
    /// [`SealError::NoKey`] for an unknown generation, [`SealError::DoesNotOpen`] if anything differs.
    pub fn open(&self, kind: RecordKind, index: u64, term: u64, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let generation = generation_of(sealed)?;
        let keys = self.read();
        let key = keys.key(generation)?;
        let (head, body) = sealed.split_at(GENERATION_LEN + NONCE_LEN);
        let nonce: [u8; NONCE_LEN] = head[GENERATION_LEN..].try_into().expect("the split is at the nonce's end");
        let payload = Payload { msg: body, aad: &self.associated(generation, kind, index, term) };
        key.cipher.decrypt(&Nonce::from(nonce), payload).map(Zeroizing::new).map_err(|_| SealError::DoesNotOpen { generation })
    }

    /// A value that only this key at this generation of this node gives; it tells a wrong key from a rotten
    /// record and says nothing about the key, which is 256 random bits.
    pub(super) fn key_check(&self, generation: u32) -> Result<[u8; KEY_CHECK_LEN], SealError> {
        Ok(self.read().key(generation)?.check)
    }

    pub(super) fn n_sealed(&self, generation: u32) -> u64 {
        let keys = self.read();
        let key = keys.by_generation.get(&generation);
        key.map_or(0, |k| k.n_sealed.load(std::sync::atomic::Ordering::Relaxed))
    }

    /// Takes over what earlier runs may have sealed. Never lowers the count.
    pub(super) fn continue_from(&self, generation: u32, n_sealed: u64) {
        if let Some(key) = self.read().by_generation.get(&generation) {
            key.n_sealed.fetch_max(n_sealed, std::sync::atomic::Ordering::Relaxed);
        }
    }

    pub(super) fn switch_to(&self, generation: u32) -> Result<(), SealError> {
        let mut keys = self.write();
        keys.key(generation)?;
        keys.current = generation;
        Ok(())
    }

    fn associated(&self, generation: u32, kind: RecordKind, index: u64, term: u64) -> Vec<u8> {
        let (code, detail) = kind.code();
        let mut out = Vec::with_capacity(64 + self.node_id.len());
        out.extend_from_slice(b"skep disk record 1");
        out.extend_from_slice(&(self.node_id.len() as u64).to_be_bytes());
        out.extend_from_slice(self.node_id.as_bytes());
        out.extend_from_slice(&generation.to_be_bytes());
        out.push(code);
        for number in [detail, index, term] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Keys> {
        self.keys.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Keys> {
        self.keys.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Keys {
    fn key(&self, generation: u32) -> Result<&DataKey, SealError> {
        self.by_generation.get(&generation).ok_or(SealError::NoKey { generation })
    }
}

/// The generation that a sealed record names.
///
/// # Errors
/// [`SealError::Short`] if the bytes cannot be a sealed record.
pub fn generation_of(sealed: &[u8]) -> Result<u32, SealError> {
    if sealed.len() < SEAL_OVERHEAD {
        return Err(SealError::Short);
    }
    let head = sealed[..GENERATION_LEN].try_into().expect("the length was checked");
    Ok(u32::from_be_bytes(head))
}

fn key_check(node_id: &str, generation: u32, key: &Zeroizing<[u8; 32]>) -> [u8; KEY_CHECK_LEN] {
    let mut hash = Sha256::new();
    hash.update(b"skep data key check 1");
    hash.update((node_id.len() as u64).to_be_bytes());
    hash.update(node_id.as_bytes());
    hash.update(generation.to_be_bytes());
    hash.update(key.as_slice());
    let digest = hash.finalize();
    digest[..KEY_CHECK_LEN].try_into().expect("a SHA-256 digest has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(node: &str, fill: u8) -> RecordSeal {
        RecordSeal::new(node, [(1, Zeroizing::new([fill; 32]))], 1).unwrap()
    }

    #[test]
    fn a_record_opens_only_where_it_was_sealed() {
        let s = seal("n1", 7);
        let kind = RecordKind::Entry(0);
        let sealed = s.seal(kind, 5, 2, b"value").unwrap();
        assert_eq!(s.open(kind, 5, 2, &sealed).unwrap().as_slice(), b"value");
        let refused = Err(SealError::DoesNotOpen { generation: 1 });
        let check = |who: &RecordSeal, kind, index, term, bytes: &[u8]| {
            assert_eq!(who.open(kind, index, term, bytes).map(|_| ()), refused);
        };
        check(&s, RecordKind::Entry(1), 5, 2, &sealed);
        check(&s, RecordKind::HardState, 5, 2, &sealed);
        check(&s, kind, 6, 2, &sealed);
        check(&s, kind, 5, 3, &sealed);
        check(&seal("n2", 7), kind, 5, 2, &sealed);
        check(&seal("n1", 8), kind, 5, 2, &sealed);
        for at in GENERATION_LEN..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            check(&s, kind, 5, 2, &flipped);
        }
        assert!(s.open(kind, 5, 2, &sealed[..SEAL_OVERHEAD - 1]).is_err());
    }

    #[test]
    fn generations_are_named_bounded_and_forgotten() {
        let s = seal("n1", 7);
        let old = s.seal(RecordKind::HardState, 0, 0, b"x").unwrap();
        assert_eq!(s.switch_to(2), Err(SealError::NoKey { generation: 2 }));
        s.add_key(2, &Zeroizing::new([9; 32])).unwrap();
        assert_eq!(s.add_key(2, &Zeroizing::new([8; 32])), Err(SealError::Clash { generation: 2 }));
        s.switch_to(2).unwrap();
        let new = s.seal(RecordKind::HardState, 0, 0, b"x").unwrap();
        assert_eq!((generation_of(&old), generation_of(&new)), (Ok(1), Ok(2)));
        assert!(s.open(RecordKind::HardState, 0, 0, &old).is_ok());
        assert!(!s.forget_key(2), "the current key cannot be forgotten");
        assert!(s.forget_key(1));
        assert_eq!(s.open(RecordKind::HardState, 0, 0, &old).map(|_| ()), Err(SealError::NoKey { generation: 1 }));
        s.continue_from(2, RECORDS_BEFORE_ROTATION);
        assert!(s.rotation_is_due());
        s.continue_from(2, RECORDS_PER_GENERATION_MAX);
        assert_eq!(s.seal(RecordKind::HardState, 0, 0, b"x"), Err(SealError::Exhausted { generation: 2 }));
    }

    #[test]
    fn nothing_of_a_key_is_shown() {
        let shown = format!("{:?}", seal("n1", 0xAB));
        assert_eq!(shown, r#"RecordSeal { node_id: "n1", current: 1, .. }"#);
    }
}
