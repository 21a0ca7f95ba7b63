//! Identifiers: 25 characters of lower-case base 36, as Swarm's are.
//!
//! An id is `Copy`, ordered and printable. It is made from 16 random bytes
//! (128 bits, padded with zeros to the full length), which come from
//! the caller: this crate has no source of randomness.

use std::fmt;
use std::str::FromStr;

/// Number of characters in an id.
pub const ID_LENGTH: usize = 25;

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// An identifier of any kind. The typed ids below wrap it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id([u8; ID_LENGTH]);

/// A text that is not an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidId {
    /// The text as it was given, cut to 64 characters.
    pub text: String,
}

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not an id: an id has {ID_LENGTH} characters of 0-9 and a-z", self.text)
    }
}

impl std::error::Error for InvalidId {}

impl Id {
    /// Makes an id from 16 random bytes; the same bytes give the same id.
    pub fn from_random(random: [u8; 16]) -> Self {
        let mut value = u128::from_be_bytes(random);
        let mut text = [b'0'; ID_LENGTH];
        for place in text.iter_mut().rev() {
            *place = DIGITS[(value % 36) as usize];
            value /= 36;
        }
        Self(text)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("an id holds ASCII digits and letters only")
    }
}

impl FromStr for Id {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let bytes: [u8; ID_LENGTH] = text.as_bytes().try_into().map_err(|_| InvalidId::of(text))?;
        if !bytes.iter().all(|byte| DIGITS.contains(byte)) {
            return Err(InvalidId::of(text));
        }
        Ok(Self(bytes))
    }
}

impl InvalidId {
    fn of(text: &str) -> Self {
        Self { text: text.chars().take(64).collect() }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl serde::Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for Id {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! typed_id {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Id);

        impl $name {
            /// Makes an id from 16 random bytes.
            pub fn from_random(random: [u8; 16]) -> Self {
                Self(Id::from_random(random))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.parse().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}

typed_id! {
    /// Names a cluster.
    ClusterId,
    /// Names a node; also the common name of its certificate.
    NodeId,
    /// Names a service.
    ServiceId,
    /// Names a task.
    TaskId,
    /// Names a secret.
    SecretId,
    /// Names a config.
    ConfigId,
    /// Names a network.
    NetworkId,
    /// Names one session of an agent with the leader.
    SessionId,
}

/// Sixteen bytes minted by a client for one mutating call; a repeat with the
/// same bytes gets the first call's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub [u8; 16]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_a_fixed_length_and_round_trip() {
        for random in [[0; 16], [0xff; 16], [7; 16]] {
            let id = Id::from_random(random);
            assert_eq!(id.as_str().len(), ID_LENGTH);
            assert_eq!(id.as_str().parse::<Id>(), Ok(id));
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in ["", "abc", "ABCDEFGHIJKLMNOPQRSTUVWXY", "0123456789abcdefghijklmno!"] {
            assert!(text.parse::<Id>().is_err(), "{text}");
        }
    }
}
