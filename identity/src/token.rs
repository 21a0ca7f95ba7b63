//! Join tokens in Swarm's form: `SWMTKN-1-<digest>-<secret>`.
//!
//! The digest pins the root CA, so that a node can check what it fetched from an
//! unknown manager before it tells that manager the secret. The role is not
//! written in it: the manager knows which of its two secrets it is. Digest: 50
//! digits of base 36 for a SHA-256; secret: 25 for 16 random bytes; both padded
//! with zeros on the left.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

const PREFIX: &str = "SWMTKN-1-";
const DIGEST_DIGITS: usize = 50;
const SECRET_DIGITS: usize = 25;
const TOKEN_LENGTH_MAX: usize = 256;

/// SHA-256 of a root certificate bundle in PEM, byte for byte as it is served.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RootDigest([u8; 32]);

impl RootDigest {
    /// The digest of a bundle.
    pub fn of(root_pem: &[u8]) -> Self {
        Self(Sha256::digest(root_pem).into())
    }
}

impl fmt::Display for RootDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(&self.0, DIGEST_DIGITS))
    }
}

impl fmt::Debug for RootDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootDigest({self})")
    }
}

/// A join token.
pub struct JoinToken {
    digest: RootDigest,
    secret: Zeroizing<[u8; 16]>,
}

/// Why a text is no join token. The text itself is never repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin as a token does.
    #[error("invalid join token: it does not begin with SWMTKN-1-")]
    Prefix,
    /// It is far too long to be one.
    #[error("invalid join token: it is longer than {TOKEN_LENGTH_MAX} characters")]
    Length,
    /// There are not exactly two parts after the prefix.
    #[error("invalid join token: expected SWMTKN-1-<digest>-<secret>, found {found} parts after the prefix")]
    Parts {
        /// How many there are.
        found: usize,
    },
    /// A part has the wrong length.
    #[error("invalid join token: its {part} has {found} characters instead of {expected}; was it cut when copying?")]
    PartLength {
        /// `digest` or `secret`.
        part: &'static str,
        /// Characters found.
        found: usize,
        /// Characters needed.
        expected: usize,
    },
    /// A part is no number in base 36, or too large.
    #[error("invalid join token: its {part} is not a number in base 36 (0-9, a-z) of the right size")]
    Digits {
        /// `digest` or `secret`.
        part: &'static str,
    },
}

impl JoinToken {
    /// A new token for the CA with this digest, with a secret from the operating system.
    ///
    /// # Panics
    /// When the operating system has no random numbers.
    pub fn generate(digest: RootDigest) -> Self {
        let mut secret = Zeroizing::new([0; 16]);
        getrandom::fill(&mut *secret).expect("the operating system gives random bytes");
        Self { digest, secret }
    }

    /// Reads a token.
    ///
    /// # Errors
    /// Says which part is wrong, without repeating it.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > TOKEN_LENGTH_MAX {
            return Err(TokenError::Length);
        }
        let rest = text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        let Some((digest, secret)) = rest.split_once('-').filter(|(_, secret)| !secret.contains('-')) else {
            return Err(TokenError::Parts { found: rest.split('-').count() });
        };
        let digest = RootDigest(part::<32>("digest", digest, DIGEST_DIGITS)?);
        let secret = Zeroizing::new(part::<16>("secret", secret, SECRET_DIGITS)?);
        Ok(Self { digest, secret })
    }

    /// The digest of the CA this token belongs to.
    pub fn digest(&self) -> RootDigest {
        self.digest
    }

    /// The whole token in clear: for the operator who asked for it, or for a
    /// manager whose CA was checked.
    pub fn reveal(&self) -> Zeroizing<String> {
        let secret = Zeroizing::new(encode(&*self.secret, SECRET_DIGITS));
        Zeroizing::new(format!("{PREFIX}{}-{}", self.digest, *secret))
    }

    /// Whether both are the same token, in constant time.
    pub fn matches(&self, other: &JoinToken) -> bool {
        bool::from(self.digest.0.ct_eq(&other.digest.0) & self.secret.ct_eq(&*other.secret))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({PREFIX}{}-…)", self.digest)
    }
}

fn part<const N: usize>(part: &'static str, text: &str, digits: usize) -> Result<[u8; N], TokenError> {
    let found = text.chars().count();
    if found != digits {
        return Err(TokenError::PartLength { part, found, expected: digits });
    }
    decode(text).ok_or(TokenError::Digits { part })
}

/// A big-endian number in base 36, padded on the left to `digits`.
fn encode(bytes: &[u8], digits: usize) -> String {
    let mut number = Zeroizing::new(bytes.to_vec());
    let mut text = vec![b'0'; digits];
    for place in text.iter_mut().rev() {
        let mut remainder = 0u32;
        for byte in number.iter_mut() {
            let value = remainder << 8 | u32::from(*byte);
            *byte = (value / 36) as u8;
            remainder = value % 36;
        }
        *place = b"0123456789abcdefghijklmnopqrstuvwxyz"[remainder as usize];
    }
    debug_assert!(number.iter().all(|byte| *byte == 0), "the digits are enough for the number");
    text.into_iter().map(char::from).collect()
}

/// The number back as N big-endian bytes; none if it is no number or needs more.
fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut number = [0u8; N];
    for digit in text.chars() {
        if digit.is_ascii_uppercase() {
            return None;
        }
        let mut carry = digit.to_digit(36)?;
        for byte in number.iter_mut().rev() {
            carry += u32::from(*byte) * 36;
            *byte = carry as u8;
            carry >>= 8;
        }
        if carry != 0 {
            number.zeroize();
            return None;
        }
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_have_swarms_form() {
        assert_eq!(encode(&[0; 32], 50), "0".repeat(50));
        assert_eq!(encode(&[0, 35], 3), "00z");
        assert_eq!(encode(&[0, 36], 3), "010");
        // 2^128 - 1 and 2^256 - 1, as any big-number tool prints them.
        assert_eq!(encode(&[255; 16], 25), "f5lxx1zz5pnorynqglhzmsp33");
        assert_eq!(encode(&[255; 32], 50), "6dp5qcb22im238nr3wvp0ic7q99w035jmy2iw7i6n43d37jtof");
        assert_eq!(decode::<16>(&"z".repeat(25)), None);
    }

    #[test]
    fn a_bad_token_says_which_part_is_wrong() {
        let good = JoinToken::generate(RootDigest::of(b"root"));
        let text = good.reveal();
        let check = |input: &str, expect: TokenError| assert_eq!(JoinToken::parse(input).unwrap_err(), expect, "{input}");
        check("", TokenError::Prefix);
        check("SWMTKN-2-0-1", TokenError::Prefix);
        check(&"x".repeat(300), TokenError::Length);
        check("SWMTKN-1-abc", TokenError::Parts { found: 1 });
        check(&format!("{}-x", *text), TokenError::Parts { found: 3 });
        check(&text[..text.len() - 1], TokenError::PartLength { part: "secret", found: 24, expected: 25 });
        check("SWMTKN-1-abc-def", TokenError::PartLength { part: "digest", found: 3, expected: 50 });
        check(&format!("{}!", &text[..text.len() - 1]), TokenError::Digits { part: "secret" });
        check(&format!("SWMTKN-1-{}-{}", "0".repeat(50), "z".repeat(25)), TokenError::Digits { part: "secret" });
    }

    #[test]
    fn a_token_matches_only_itself() {
        let digest = RootDigest::of(b"root");
        let token = JoinToken::generate(digest);
        assert!(token.matches(&JoinToken::parse(&token.reveal()).unwrap()));
        assert!(!token.matches(&JoinToken::generate(digest)));
        let elsewhere = JoinToken { digest: RootDigest::of(b"other"), secret: token.secret.clone() };
        assert!(!token.matches(&elsewhere));
    }

    #[test]
    fn debug_hides_the_secret() {
        let token = JoinToken::generate(RootDigest::of(b"root"));
        let secret = token.reveal().rsplit('-').next().unwrap().to_owned();
        assert!(!format!("{token:?}").contains(&secret));
    }

    proptest! {
        #[test]
        fn every_token_reads_back(digest: [u8; 32], secret: [u8; 16]) {
            let token = JoinToken { digest: RootDigest(digest), secret: Zeroizing::new(secret) };
            let read = JoinToken::parse(&token.reveal()).unwrap();
            prop_assert!(read.matches(&token));
            prop_assert_eq!(token.reveal().len(), 9 + 50 + 1 + 25);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "(SWMTKN-1-)?[0-9a-zé-]{0,90}") {
            let _either_way = JoinToken::parse(&text);
        }
    }
}
