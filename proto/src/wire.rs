//! One value in two forms: of the model, and of a message's field.
//!
//! [`Wire`] pairs them for numbers, texts, lists and maps; the macros pair the
//! fields of a struct by name, so a field that exists on one side only does not
//! compile. A message that the model has without `Option` must be given.

use crate::Malformed;
use crate::limits::{BYTES_MAX, LIST_MAX, TEXT_MAX};
use ipnet::IpNet;
use skep_model::{ClusterId, ConfigId, Id, NetworkId, NodeId, RequestId, SecretId, ServiceId, TaskId, Time};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// A model's value that has the form `W` in messages.
pub(crate) trait Wire<W>: Sized {
    /// The form of this value in a message.
    fn encode(&self) -> W;
    /// The value, checked; the error's path is relative to it.
    fn decode(wire: W) -> Result<Self, Malformed>;
}

/// Decodes the field of that name.
pub(crate) fn field<T: Wire<W>, W>(name: &str, wire: W) -> Result<T, Malformed> {
    T::decode(wire).map_err(|error| error.within(name))
}

macro_rules! plain {
    ($($kind:ty),*) => {$(
        impl Wire<$kind> for $kind {
            fn encode(&self) -> $kind {
                *self
            }

            fn decode(wire: $kind) -> Result<Self, Malformed> {
                Ok(wire)
            }
        }
    )*};
}

plain!(bool, u32, u64, i32, i64);

/// The one ratio: a share from 0 to 1.
impl Wire<f32> for f32 {
    fn encode(&self) -> f32 {
        *self
    }

    fn decode(wire: f32) -> Result<Self, Malformed> {
        if (0.0..=1.0).contains(&wire) { Ok(wire) } else { Err(Malformed::new("", "must be a number from 0 to 1")) }
    }
}

impl Wire<u32> for u16 {
    fn encode(&self) -> u32 {
        u32::from(*self)
    }

    fn decode(wire: u32) -> Result<Self, Malformed> {
        Self::try_from(wire).map_err(|_| Malformed::new("", format!("is {wire}, the limit is 65535")))
    }
}

impl Wire<String> for IpAddr {
    fn encode(&self) -> String {
        self.to_string()
    }

    fn decode(wire: String) -> Result<Self, Malformed> {
        wire.parse().map_err(|_| Malformed::new("", "is not an IP address"))
    }
}

impl Wire<String> for IpNet {
    fn encode(&self) -> String {
        self.to_string()
    }

    fn decode(wire: String) -> Result<Self, Malformed> {
        wire.parse().map_err(|_| Malformed::new("", "is not a network: write it as address/prefix"))
    }
}

impl Wire<u64> for Time {
    fn encode(&self) -> u64 {
        self.0
    }

    fn decode(wire: u64) -> Result<Self, Malformed> {
        Ok(Self(wire))
    }
}

impl Wire<u64> for Duration {
    fn encode(&self) -> u64 {
        u64::try_from(self.as_nanos()).unwrap_or(u64::MAX)
    }

    fn decode(wire: u64) -> Result<Self, Malformed> {
        Ok(Self::from_nanos(wire))
    }
}

impl Wire<String> for String {
    fn encode(&self) -> String {
        self.clone()
    }

    fn decode(wire: String) -> Result<Self, Malformed> {
        at_most("", wire.len(), TEXT_MAX, "bytes")?;
        Ok(wire)
    }
}

/// Refuses a length or count above its limit.
pub(crate) fn at_most(name: &str, length: usize, max: usize, unit: &str) -> Result<(), Malformed> {
    if length <= max {
        return Ok(());
    }
    Err(Malformed::new(name, format!("has {length} {unit}, the limit is {max}")))
}

macro_rules! ids {
    ($($kind:ident),*) => {$(
        impl Wire<String> for $kind {
            fn encode(&self) -> String {
                self.as_str().to_owned()
            }

            fn decode(wire: String) -> Result<Self, Malformed> {
                wire.parse().map_err(|_| Malformed::new("", "is not an id: an id has 25 characters of 0-9 and a-z"))
            }
        }
    )*};
}

ids!(Id, ClusterId, NodeId, ServiceId, TaskId, SecretId, ConfigId, NetworkId);

impl Wire<Vec<u8>> for RequestId {
    fn encode(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    fn decode(wire: Vec<u8>) -> Result<Self, Malformed> {
        Wire::decode(wire).map(Self)
    }
}

impl<const N: usize> Wire<Vec<u8>> for [u8; N] {
    fn encode(&self) -> Vec<u8> {
        self.to_vec()
    }

    fn decode(wire: Vec<u8>) -> Result<Self, Malformed> {
        let length = wire.len();
        wire.try_into().map_err(|_| Malformed::new("", format!("must have {N} bytes, has {length}")))
    }
}

impl Wire<Vec<u8>> for Vec<u8> {
    fn encode(&self) -> Vec<u8> {
        self.clone()
    }

    fn decode(wire: Vec<u8>) -> Result<Self, Malformed> {
        at_most("", wire.len(), BYTES_MAX, "bytes")?;
        Ok(wire)
    }
}

impl<T: Wire<W>, W> Wire<Vec<W>> for Vec<T> {
    fn encode(&self) -> Vec<W> {
        self.iter().map(T::encode).collect()
    }

    fn decode(wire: Vec<W>) -> Result<Self, Malformed> {
        at_most("", wire.len(), LIST_MAX, "items")?;
        let items = wire.into_iter().enumerate();
        items.map(|(place, item)| T::decode(item).map_err(|error| error.within(format_args!("[{place}]")))).collect()
    }
}

/// Keys are ids or labels, which are no secrets, but they may be long: an error
/// names the map only.
impl<K: Wire<String> + Ord, V: Wire<W>, W> Wire<BTreeMap<String, W>> for BTreeMap<K, V> {
    fn encode(&self) -> BTreeMap<String, W> {
        self.iter().map(|(key, value)| (key.encode(), value.encode())).collect()
    }

    fn decode(wire: BTreeMap<String, W>) -> Result<Self, Malformed> {
        at_most("", wire.len(), LIST_MAX, "items")?;
        let items = wire.into_iter();
        items.map(|(key, value)| Ok((field("key", key)?, field("value", value)?))).collect()
    }
}

impl<T: Wire<W>, W> Wire<Option<W>> for Option<T> {
    fn encode(&self) -> Option<W> {
        self.as_ref().map(T::encode)
    }

    fn decode(wire: Option<W>) -> Result<Self, Malformed> {
        wire.map(T::decode).transpose()
    }
}

impl<T: Wire<W>, W> Wire<W> for Box<T> {
    fn encode(&self) -> W {
        T::encode(self)
    }

    fn decode(wire: W) -> Result<Self, Malformed> {
        T::decode(wire).map(Box::new)
    }
}

impl<T: Wire<W>, W> Wire<W> for Arc<T> {
    fn encode(&self) -> W {
        T::encode(self)
    }

    fn decode(wire: W) -> Result<Self, Malformed> {
        T::decode(wire).map(Arc::new)
    }
}

/// Offers a pair as `From` and `TryFrom`, and as a field that must be given.
macro_rules! border {
    ($model:ty, $wire:ty) => {
        impl $crate::wire::Wire<Option<$wire>> for $model {
            fn encode(&self) -> Option<$wire> {
                Some($crate::wire::Wire::encode(self))
            }

            fn decode(wire: Option<$wire>) -> Result<Self, $crate::Malformed> {
                $crate::wire::Wire::decode(wire.ok_or_else($crate::Malformed::missing)?)
            }
        }

        impl From<&$model> for $wire {
            fn from(value: &$model) -> Self {
                $crate::wire::Wire::encode(value)
            }
        }

        impl From<$model> for $wire {
            fn from(value: $model) -> Self {
                $crate::wire::Wire::encode(&value)
            }
        }

        impl TryFrom<$wire> for $model {
            type Error = $crate::Malformed;

            fn try_from(wire: $wire) -> Result<Self, $crate::Malformed> {
                $crate::wire::Wire::decode(wire)
            }
        }
    };
}

/// Pairs a struct of the model with the message of the same name and fields.
macro_rules! message {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::wire::Wire<$crate::v1::$name> for $name {
            fn encode(&self) -> $crate::v1::$name {
                $crate::v1::$name { $($field: $crate::wire::Wire::encode(&self.$field)),* }
            }

            fn decode(wire: $crate::v1::$name) -> Result<Self, $crate::Malformed> {
                Ok(Self { $($field: $crate::wire::field(stringify!($field), wire.$field)?),* })
            }
        }

        $crate::wire::border!($name, $crate::v1::$name);
    };
}

/// Pairs a section with its message of `version` and `value`.
macro_rules! section {
    ($value:ident, $wire:ident) => {
        impl $crate::wire::Wire<Option<$crate::v1::$wire>> for skep_model::Section<$value> {
            fn encode(&self) -> Option<$crate::v1::$wire> {
                Some($crate::v1::$wire { version: self.version, value: $crate::wire::Wire::encode(&self.value) })
            }

            fn decode(wire: Option<$crate::v1::$wire>) -> Result<Self, $crate::Malformed> {
                let wire = wire.ok_or_else($crate::Malformed::missing)?;
                Ok(Self { version: wire.version, value: $crate::wire::field("value", wire.value)? })
            }
        }
    };
}

/// Pairs a plain enum with the enum of the same name; "unspecified" is refused.
macro_rules! choice {
    ($name:ident { $($variant:ident),* $(,)? }) => {
        impl $crate::wire::Wire<i32> for $name {
            fn encode(&self) -> i32 {
                match self {
                    $(Self::$variant => $crate::v1::$name::$variant as i32,)*
                }
            }

            fn decode(wire: i32) -> Result<Self, $crate::Malformed> {
                match $crate::v1::$name::try_from(wire) {
                    $(Ok($crate::v1::$name::$variant) => Ok(Self::$variant),)*
                    _ => Err($crate::Malformed::new("", format!("{wire} is not one of the values it may have"))),
                }
            }
        }

        impl From<$name> for $crate::v1::$name {
            fn from(value: $name) -> Self {
                match value {
                    $($name::$variant => Self::$variant,)*
                }
            }
        }

        impl TryFrom<$crate::v1::$name> for $name {
            type Error = $crate::Malformed;

            fn try_from(wire: $crate::v1::$name) -> Result<Self, $crate::Malformed> {
                $crate::wire::Wire::decode(wire as i32)
            }
        }
    };
}

pub(crate) use {border, choice, message, section};
