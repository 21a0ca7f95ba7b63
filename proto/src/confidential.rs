//! Bytes that must not be seen: never printed, zeroized when dropped.
//!
//! What the transport held before decoding, and the frame an encoder wrote to, is
//! beyond this type; both live for the time of one message.

use crate::{Malformed, v1::Confidential};
use std::fmt;
use zeroize::{Zeroize, Zeroizing};

impl Confidential {
    /// Takes the bytes in; no copy is left behind.
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self { value: value.into() }
    }

    /// Takes the bytes out; they are zeroized when the answer is dropped.
    pub fn take(mut self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(std::mem::take(&mut self.value))
    }

    /// The bytes as text.
    pub fn text(&self) -> Result<&str, Malformed> {
        std::str::from_utf8(&self.value).map_err(|_| Malformed::new("value", "is not UTF-8"))
    }
}

impl Drop for Confidential {
    fn drop(&mut self) {
        self.value.zeroize();
    }
}

impl fmt::Debug for Confidential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Confidential({} bytes)", self.value.len())
    }
}
