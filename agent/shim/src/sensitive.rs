//! Bytes that must not outlive their use: wiped when dropped, never printed.
//!
//! On the wire they are hexadecimal text, which JSON never escapes, so both directions work in the caller's buffer
//! and no copy is left in the serializer's scratch memory.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A secret value, or text that may contain one (an environment entry).
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Sensitive(Zeroizing<Vec<u8>>);

impl Sensitive {
    /// The value itself. The caller must not keep a copy.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Bytes in the value.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<u8>> for Sensitive {
    fn from(value: Vec<u8>) -> Self {
        Self(Zeroizing::new(value))
    }
}

impl From<String> for Sensitive {
    fn from(value: String) -> Self {
        Self(Zeroizing::new(value.into_bytes()))
    }
}

impl From<&str> for Sensitive {
    fn from(value: &str) -> Self {
        Self(Zeroizing::new(value.as_bytes().to_vec()))
    }
}

impl fmt::Debug for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Sensitive {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Hex(&self.0))
    }
}

struct HexVisitor;

impl Visitor<'_> for HexVisitor {
    type Value = Sensitive;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hexadecimal text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Sensitive, E> {
        let digits = text.as_bytes();
        if !digits.len().is_multiple_of(2) {
            return Err(E::custom("hexadecimal text of odd length"));
        }
        // Exactly sized at once: a growing vector would leave unwiped copies behind.
        let mut value = Zeroizing::new(Vec::with_capacity(digits.len() / 2));
        for pair in digits.chunks_exact(2) {
            let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else {
                return Err(E::custom("not a hexadecimal digit"));
            };
            value.push(high << 4 | low);
        }
        Ok(Sensitive(value))
    }
}

fn nibble(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|n| n as u8)
}

impl<'de> Deserialize<'de> for Sensitive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(HexVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_survive_the_wire(bytes: Vec<u8>) {
            let value = Sensitive::from(bytes);
            let text = serde_json::to_string(&value).unwrap();
            prop_assert_eq!(serde_json::from_str::<Sensitive>(&text).unwrap(), value);
        }
    }

    #[test]
    fn it_is_never_printed() {
        assert_eq!(format!("{:?}", Sensitive::from("hunter2")), "<hidden>");
    }

    #[test]
    fn bad_text_is_refused() {
        for text in ["\"abc\"", "\"zz\"", "12", "\"é0\""] {
            assert!(serde_json::from_str::<Sensitive>(text).is_err(), "{text}");
        }
    }
}
