//! A stand-in for the sealing of secrets: it hides a canary, and checks what the
//! seal is bound to.
//!
//! The cipher is a toy. What counts is that a value opens as its own version of
//! its own secret only, and that the canary can be looked for everywhere else.

use super::trace::checksum;
use skep_model::SecretId;
use skep_model::sealed::Sealed;

/// Is in every value and may be seen nowhere but in tasks that reference it.
pub(super) const CANARY: &str = "canary-sings";
const TAG: usize = 16;

/// Seals a value for one version of a secret.
pub(super) fn seal(id: SecretId, n: u64) -> Sealed {
    let mut bytes = crypt(id, n, plain(id, n).as_bytes());
    let tag = format!("{:016x}", checksum(&[associated(id, n).as_bytes(), &bytes[..]].concat()));
    bytes.extend_from_slice(tag.as_bytes());
    Sealed { key_generation: 1, nonce: [0; 12], bytes }
}

/// Opens a value as this version of this secret.
pub(super) fn open(id: SecretId, n: u64, sealed: &Sealed) -> Result<String, String> {
    let (bytes, tag) = sealed.bytes.split_at(sealed.bytes.len().saturating_sub(TAG));
    let expected = format!("{:016x}", checksum(&[associated(id, n).as_bytes(), bytes].concat()));
    if tag != expected.as_bytes() {
        return Err(format!("what was given as secret {id} version {n} does not open as that"));
    }
    String::from_utf8(crypt(id, n, bytes)).map_err(|error| error.to_string())
}

/// Whether bytes hold the canary.
pub(super) fn sings(bytes: &[u8]) -> bool {
    let canary = CANARY.as_bytes();
    bytes.windows(canary.len()).any(|window| window[0] == canary[0] && window == canary)
}

fn plain(id: SecretId, n: u64) -> String {
    format!("{CANARY} {id} {n}")
}

fn associated(id: SecretId, n: u64) -> String {
    format!("secret {id} {n} 1")
}

fn crypt(id: SecretId, n: u64, bytes: &[u8]) -> Vec<u8> {
    let mut stream = checksum(associated(id, n).as_bytes());
    let mut next = || {
        stream = checksum(&stream.to_be_bytes());
        (stream >> 24) as u8 | 0x80
    };
    bytes.iter().map(|byte| byte ^ next()).collect()
}
