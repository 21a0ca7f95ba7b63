//! Small files of the node that a restarted daemon relies on: whole, durable, and
//! told from a damaged one.
//!
//! A file is a word of eight bytes that says what it is and in which format, the
//! SHA-256 of its body, and the body. Nothing secret is in one.

use sha2::{Digest as _, Sha256};
use skep_shim::file;
use std::io;
use std::path::Path;

/// Bytes of the SHA-256.
const SUM: usize = 32;
/// Bytes before the body.
const HEAD: usize = 8 + SUM;

/// What a file is, and in which format.
pub(crate) type Kind = [u8; 8];

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FramedError {
    /// It could not be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is not of that kind, or of a format that this version does not know.
    #[error("it is of an unknown format")]
    Format,
    /// It is not what was written.
    #[error("it is damaged")]
    Damaged,
}

/// Writes a file durably: a reader sees the old or the new one, whole.
pub(crate) fn write(path: &Path, kind: Kind, body: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(HEAD + body.len());
    bytes.extend_from_slice(&kind);
    bytes.extend_from_slice(&Sha256::digest(body));
    bytes.extend_from_slice(body);
    file::write_durably(path, &bytes)
}

/// The body of a file of at most `max` bytes; none when there is no such file.
pub(crate) fn read(path: &Path, kind: Kind, max: u64) -> Result<Option<Vec<u8>>, FramedError> {
    let Some(bytes) = file::read_limited(path, max.saturating_add(HEAD as u64))? else { return Ok(None) };
    let (head, body) = bytes.split_at_checked(HEAD).ok_or(FramedError::Damaged)?;
    let (word, sum) = head.split_at(kind.len());
    if word != kind {
        return Err(FramedError::Format);
    }
    if sum != &Sha256::digest(body)[..] {
        return Err(FramedError::Damaged);
    }
    Ok(Some(body.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_damage_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert!(read(&path, *b"one-fmt1", 100).unwrap().is_none());
        write(&path, *b"one-fmt1", b"body").unwrap();
        assert_eq!(read(&path, *b"one-fmt1", 100).unwrap().unwrap(), b"body");
        assert!(matches!(read(&path, *b"one-fmt2", 100), Err(FramedError::Format)));
        assert!(matches!(read(&path, *b"one-fmt1", 3), Err(FramedError::Read(_))), "it is longer than it may be");
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(read(&path, *b"one-fmt1", 100).is_err(), "cut at {cut}");
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, flipped).unwrap();
            assert!(read(&path, *b"one-fmt1", 100).is_err(), "bit {bit}");
        }
    }
}
