//! Sealing of values that go into the cluster's store.
//!
//! AES-256-GCM under the cluster's sealing key. Kind, id, version and key
//! generation are associated data: a record that was moved to another object, or
//! an older one put back, does not open. Each manager gets the sealing key in a
//! slot of its own: HPKE (RFC 9180: X25519, HKDF-SHA256, AES-256-GCM) to its public
//! unsealing key. Nonces are 96 random bits, which bounds the number of records
//! per generation: see [`RECORDS_PER_GENERATION_MAX`].

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use hmac::{Hmac, Mac};
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use sha2::{Digest, Sha256};

pub use skep_model::sealed::Sealed;

use crate::SecretBytes;

/// How many records one generation of a key may seal: with 2^32 random nonces of
/// 96 bits a collision has a chance below 2^-32 (NIST SP 800-38D, 8.3).
pub const RECORDS_PER_GENERATION_MAX: u64 = 1 << 32;
/// The largest value that is sealed: more than any secret or config may have.
pub const VALUE_LENGTH_MAX: usize = 4 * 1024 * 1024;

const KEY_LENGTH: usize = 32;
const TAG_LENGTH: usize = 16;
const SLOT_INFO: &[u8] = b"skep sealing key slot v1";

type SlotKem = hpke::kem::X25519HkdfSha256;
type SlotKdf = hpke::kdf::HkdfSha256;
type SlotAead = hpke::aead::AesGcm256;

/// Why a value did not seal or open. Nothing of the value is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Too long to seal.
    #[error("a value of {0} bytes is too long to seal; {VALUE_LENGTH_MAX} are allowed")]
    TooLong(usize),
    /// The key is of another generation.
    #[error("the record is sealed under key generation {record}, the key at hand is generation {key}")]
    Generation {
        /// The record's.
        record: u32,
        /// The key's.
        key: u32,
    },
    /// It does not open: changed, moved, older, or another key.
    #[error("{0} does not open: it was changed or belongs elsewhere, or the key is another")]
    Open(String),
    /// A key has the wrong length or form.
    #[error("{0} has the wrong form")]
    Key(&'static str),
    /// The slot does not open.
    #[error("the slot with the sealing key does not open with this node's unsealing key")]
    Slot,
}

/// What a sealed record is, bound into the seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding<'a> {
    /// The kind of object, such as `secret`.
    pub kind: &'a str,
    /// The object's id.
    pub id: &'a str,
    /// The version of the value.
    pub version: u64,
}

impl Binding<'_> {
    /// Lengths first, so that no two bindings have the same bytes.
    fn associated_data(&self, generation: u32) -> Vec<u8> {
        let mut data = b"skep sealed v1".to_vec();
        for part in [self.kind, self.id] {
            data.extend_from_slice(&(part.len() as u64).to_be_bytes());
            data.extend_from_slice(part.as_bytes());
        }
        data.extend_from_slice(&self.version.to_be_bytes());
        data.extend_from_slice(&generation.to_be_bytes());
        data
    }
}

/// An AES-256-GCM key with its generation: the cluster's sealing key, or a node's
/// data key.
pub struct SealingKey {
    generation: u32,
    bytes: SecretBytes,
    cipher: Aes256Gcm,
}

impl SealingKey {
    /// A new key from the operating system's random numbers.
    ///
    /// # Panics
    /// When there are none.
    pub fn generate(generation: u32) -> Self {
        Self::from_bytes(generation, SecretBytes::random(KEY_LENGTH)).expect("the length is right")
    }

    /// A key from its 32 bytes.
    ///
    /// # Errors
    /// If there are not 32.
    pub fn from_bytes(generation: u32, bytes: SecretBytes) -> Result<Self, SealError> {
        let cipher = Aes256Gcm::new_from_slice(&bytes).map_err(|_| SealError::Key("a sealing key"))?;
        Ok(Self { generation, bytes, cipher })
    }

    /// Its generation, from 1.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Its 32 bytes, for the keystore.
    pub fn bytes(&self) -> &SecretBytes {
        &self.bytes
    }

    /// Seals a value as the thing that `binding` names.
    ///
    /// # Errors
    /// If the value is longer than [`VALUE_LENGTH_MAX`].
    ///
    /// # Panics
    /// When the operating system has no random numbers.
    pub fn seal(&self, binding: Binding<'_>, value: &[u8]) -> Result<Sealed, SealError> {
        if value.len() > VALUE_LENGTH_MAX {
            return Err(SealError::TooLong(value.len()));
        }
        let (nonce, bytes) = self.seal_bytes(&binding.associated_data(self.generation), value);
        Ok(Sealed { key_generation: self.generation, nonce, bytes })
    }

    /// Opens a record that must be the thing that `binding` names.
    ///
    /// # Errors
    /// If it is anything else, was changed, or is sealed under another key.
    pub fn open(&self, binding: Binding<'_>, sealed: &Sealed) -> Result<SecretBytes, SealError> {
        if sealed.key_generation != self.generation {
            return Err(SealError::Generation { record: sealed.key_generation, key: self.generation });
        }
        self.open_bytes(&binding.associated_data(self.generation), &sealed.nonce, &sealed.bytes)
            .ok_or_else(|| SealError::Open(format!("{} {} version {}", binding.kind, binding.id, binding.version)))
    }

    /// Seals bytes under associated data of the caller's own: nonce, then ciphertext
    /// with its tag. For records of the log and the keystore.
    ///
    /// # Panics
    /// When the operating system has no random numbers, or the value has 64 GiB.
    pub fn seal_bytes(&self, associated_data: &[u8], value: &[u8]) -> ([u8; 12], Vec<u8>) {
        let mut nonce = [0; 12];
        getrandom::fill(&mut nonce).expect("the operating system gives random bytes");
        // The room for the tag is taken first: a growing vector would leave a copy of the value behind.
        let mut bytes = Vec::with_capacity(value.len() + TAG_LENGTH);
        bytes.extend_from_slice(value);
        let tag = self
            .cipher
            .encrypt_inout_detached(&Nonce::from(nonce), associated_data, bytes.as_mut_slice().into())
            .expect("the value is far below the cipher's limit of 64 GiB");
        bytes.extend_from_slice(&tag);
        (nonce, bytes)
    }

    /// Opens what [`SealingKey::seal_bytes`] sealed; none if anything differs.
    pub fn open_bytes(&self, associated_data: &[u8], nonce: &[u8; 12], bytes: &[u8]) -> Option<SecretBytes> {
        let (ciphertext, tag) = bytes.split_last_chunk::<TAG_LENGTH>()?;
        let mut value = SecretBytes::copy_of(ciphertext);
        self.cipher
            .decrypt_inout_detached(&Nonce::from(*nonce), associated_data, (&mut value[..]).into(), &Tag::from(*tag))
            .ok()?;
        Some(value)
    }
}

/// A manager's private unsealing key.
pub struct UnsealingKey {
    bytes: SecretBytes,
}

/// A manager's public unsealing key, kept in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsealingPublicKey(pub [u8; 32]);

impl UnsealingKey {
    /// A new key.
    ///
    /// # Panics
    /// When the operating system has no random numbers.
    pub fn generate() -> Self {
        let (private, _) = SlotKem::gen_keypair();
        let mut bytes = SecretBytes::zeroed(KEY_LENGTH);
        private.write_exact(&mut bytes);
        Self { bytes }
    }

    /// A key from its 32 bytes.
    ///
    /// # Errors
    /// If they are no X25519 private key.
    pub fn from_bytes(bytes: SecretBytes) -> Result<Self, SealError> {
        let key = Self { bytes };
        key.private()?;
        Ok(key)
    }

    /// Its 32 bytes, for the keystore.
    pub fn bytes(&self) -> &SecretBytes {
        &self.bytes
    }

    /// The half that others may have.
    ///
    /// # Panics
    /// Never: the bytes were checked when the key was made.
    pub fn public(&self) -> UnsealingPublicKey {
        let private = self.private().expect("the key was checked when it was made");
        UnsealingPublicKey(SlotKem::sk_to_pk(&private).to_bytes().into())
    }

    /// Opens this manager's slot. `node_id` and `generation` must be those it was made for.
    ///
    /// # Errors
    /// If the slot is another's, was changed, or is of another generation.
    pub fn unwrap(&self, slot: &[u8], node_id: &str, generation: u32) -> Result<SealingKey, SealError> {
        let size = <SlotKem as Kem>::EncappedKey::size();
        let (encapped, ciphertext) = slot.split_at_checked(size).ok_or(SealError::Key("a slot"))?;
        let (ciphertext, tag) = ciphertext.split_last_chunk::<TAG_LENGTH>().ok_or(SealError::Key("a slot"))?;
        let encapped = <SlotKem as Kem>::EncappedKey::from_bytes(encapped).map_err(|_| SealError::Key("a slot"))?;
        let tag = hpke::aead::AeadTag::<SlotAead>::from_bytes(tag).map_err(|_| SealError::Key("a slot"))?;
        let mut bytes = SecretBytes::copy_of(ciphertext);
        hpke::single_shot_open_inout_detached::<SlotAead, SlotKdf, SlotKem>(
            &OpModeR::Base,
            &self.private()?,
            &encapped,
            SLOT_INFO,
            (&mut bytes[..]).into(),
            &slot_binding(node_id, generation),
            &tag,
        )
        .map_err(|_| SealError::Slot)?;
        SealingKey::from_bytes(generation, bytes)
    }

    fn private(&self) -> Result<<SlotKem as Kem>::PrivateKey, SealError> {
        <SlotKem as Kem>::PrivateKey::from_bytes(&self.bytes).map_err(|_| SealError::Key("an unsealing key"))
    }
}

impl UnsealingPublicKey {
    /// Makes this manager's slot: the sealing key, readable by it alone.
    ///
    /// # Errors
    /// If the public key is no X25519 key.
    ///
    /// # Panics
    /// When the operating system has no random numbers.
    pub fn wrap(&self, key: &SealingKey, node_id: &str) -> Result<Vec<u8>, SealError> {
        let public = <SlotKem as Kem>::PublicKey::from_bytes(&self.0).map_err(|_| SealError::Key("a public unsealing key"))?;
        let mut ciphertext = key.bytes.duplicate();
        let (encapped, tag) = hpke::single_shot_seal_inout_detached::<SlotAead, SlotKdf, SlotKem>(
            &OpModeS::Base,
            &public,
            SLOT_INFO,
            (&mut ciphertext[..]).into(),
            &slot_binding(node_id, key.generation),
        )
        .map_err(|_| SealError::Key("a public unsealing key"))?;
        Ok([&encapped.to_bytes()[..], &ciphertext[..], &tag.to_bytes()[..]].concat())
    }
}

fn slot_binding(node_id: &str, generation: u32) -> Vec<u8> {
    [&generation.to_be_bytes()[..], node_id.as_bytes()].concat()
}

/// A secret's fingerprint: the first 16 hex digits of HMAC-SHA-256 under a key of
/// the cluster. Good for equality; without the key no guess can be tried.
pub fn fingerprint(cluster_key: &SecretBytes, value: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(cluster_key).expect("HMAC takes a key of any length");
    mac.update(value);
    hex(&mac.finalize().into_bytes()[..8])
}

/// A config's fingerprint: the first 16 hex digits of its SHA-256, as long as a
/// secret's. Configs are no secrets.
pub fn config_fingerprint(value: &[u8]) -> String {
    hex(&Sha256::digest(value)[..8])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BINDING: Binding<'static> = Binding { kind: "secret", id: "s1", version: 3 };

    #[test]
    fn a_record_opens_only_as_what_it_is() {
        let key = SealingKey::generate(7);
        let sealed = key.seal(BINDING, b"hunter2").unwrap();
        assert_eq!(&*key.open(BINDING, &sealed).unwrap(), b"hunter2");
        for elsewhere in [
            Binding { kind: "config", ..BINDING },
            Binding { id: "s2", ..BINDING },
            Binding { version: 2, ..BINDING },
            Binding { kind: "secrets", id: "1", ..BINDING },
        ] {
            assert!(matches!(key.open(elsewhere, &sealed), Err(SealError::Open(_))), "{elsewhere:?}");
        }
        let other_generation = SealingKey::from_bytes(8, key.bytes().duplicate()).unwrap();
        assert_eq!(other_generation.open(BINDING, &sealed).err(), Some(SealError::Generation { record: 7, key: 8 }));
        let relabelled = Sealed { key_generation: 8, ..sealed.clone() };
        assert!(matches!(other_generation.open(BINDING, &relabelled), Err(SealError::Open(_))));
        assert!(matches!(SealingKey::generate(7).open(BINDING, &sealed), Err(SealError::Open(_))));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let key = SealingKey::generate(1);
        let sealed = key.seal(BINDING, b"hunter2").unwrap();
        for bit in 0..sealed.bytes.len() * 8 {
            let mut changed = sealed.clone();
            changed.bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open(BINDING, &changed).is_err(), "bit {bit}");
        }
        for length in 0..sealed.bytes.len() {
            let cut = Sealed { bytes: sealed.bytes[..length].to_vec(), ..sealed.clone() };
            assert!(key.open(BINDING, &cut).is_err(), "{length} bytes");
        }
        let mut nonce = sealed.clone();
        nonce.nonce[0] ^= 1;
        assert!(key.open(BINDING, &nonce).is_err());
    }

    #[test]
    fn equal_values_seal_differently() {
        let key = SealingKey::generate(1);
        assert_ne!(key.seal(BINDING, b"x").unwrap(), key.seal(BINDING, b"x").unwrap());
        assert_eq!(key.seal(BINDING, &vec![0; VALUE_LENGTH_MAX + 1]).err(), Some(SealError::TooLong(VALUE_LENGTH_MAX + 1)));
    }

    #[test]
    fn a_slot_is_for_one_manager_and_one_generation() {
        let manager = UnsealingKey::generate();
        let key = SealingKey::generate(4);
        let slot = manager.public().wrap(&key, "m1").unwrap();
        let again = UnsealingKey::from_bytes(manager.bytes().duplicate()).unwrap();
        assert!(again.unwrap(&slot, "m1", 4).unwrap().bytes() == key.bytes());
        assert_eq!(UnsealingKey::generate().unwrap(&slot, "m1", 4).err(), Some(SealError::Slot));
        assert_eq!(manager.unwrap(&slot, "m2", 4).err(), Some(SealError::Slot));
        assert_eq!(manager.unwrap(&slot, "m1", 5).err(), Some(SealError::Slot));
        assert!(manager.unwrap(&slot[..40], "m1", 4).is_err());
        let mut changed = slot.clone();
        changed[40] ^= 1;
        assert_eq!(manager.unwrap(&changed, "m1", 4).err(), Some(SealError::Slot));
        assert!(!slot.windows(32).any(|window| window == &**key.bytes()));
    }

    #[test]
    fn fingerprints_are_what_they_say() {
        // RFC 4231, test case 2.
        assert_eq!(fingerprint(&SecretBytes::copy_of(b"Jefe"), b"what do ya want for nothing?"), "5bdcc146bf60754e");
        assert_eq!(config_fingerprint(b"abc"), "ba7816bf8f01cfea");
    }

    proptest! {
        #[test]
        fn any_value_opens_again(value: Vec<u8>, id: String, version: u64, generation: u32) {
            let key = SealingKey::generate(generation);
            let binding = Binding { kind: "secret", id: &id, version };
            prop_assert_eq!(&*key.open(binding, &key.seal(binding, &value).unwrap()).unwrap(), &value[..]);
        }
    }
}
