//! What fields an object may have, beside those that it has.
//!
//! Go's templates run over typed values, where an optional field that is not set is
//! nil or zero and only a field that no type has is an error. JSON leaves such fields
//! out; a [`Shape`] says which they are.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The fields of an object that may be absent, or whose own fields may be.
pub type Shape = &'static [(&'static str, Known)];

/// What is known of a field, and so what it is where it is absent.
#[derive(Debug, Clone, Copy)]
pub enum Known {
    /// An empty text.
    Text,
    /// 0.
    Number,
    /// False.
    Flag,
    /// An empty list of values.
    List,
    /// An empty map of values.
    Map,
    /// Nil: an optional value without fields.
    Nil,
    /// Nil: an optional object.
    Pointer(Shape),
    /// An object that is always there, all of its fields zero.
    Struct(Shape),
    /// An empty list of objects.
    Items(Shape),
    /// An empty map of objects.
    Entries(Shape),
    /// Another name of a field, which JSON has under this one.
    Same(&'static str),
}

/// What nil is; borrowed, so that it is told from a key that a map lacks.
static NIL: Value = Value::Null;

impl Known {
    /// The value of the field where it is absent.
    pub(crate) fn absent<'a>(self) -> std::borrow::Cow<'a, Value> {
        use std::borrow::Cow::{Borrowed, Owned};
        match self {
            Self::Nil | Self::Pointer(_) | Self::Same(_) => Borrowed(&NIL),
            Self::Text => Owned(Value::String(String::new())),
            Self::Number => Owned(Value::from(0)),
            Self::Flag => Owned(Value::Bool(false)),
            Self::List | Self::Items(_) => Owned(Value::Array(Vec::new())),
            Self::Map | Self::Entries(_) | Self::Struct(_) => Owned(Value::Object(Map::new())),
        }
    }

    /// The fields of the object that the field is.
    pub(crate) fn inner(self) -> Option<Shape> {
        match self {
            Self::Pointer(shape) | Self::Struct(shape) => Some(shape),
            _ => None,
        }
    }
}

/// The field of that name.
pub(crate) fn field(shape: Shape, name: &str) -> Option<Known> {
    shape.iter().find(|(known, _)| *known == name).map(|(_, known)| *known)
}

/// The shapes of all objects within borrowed data, by where they are in memory.
#[derive(Debug, Default)]
pub(crate) struct Shapes(BTreeMap<usize, Shape>);

impl Shapes {
    pub(crate) fn of(data: &Value, shape: Shape) -> Self {
        let mut shapes = Self::default();
        if !shape.is_empty() {
            shapes.add(data, shape);
        }
        shapes
    }

    fn add(&mut self, data: &Value, shape: Shape) {
        let Value::Object(entries) = data else { return };
        self.0.insert(std::ptr::from_ref(data).addr(), shape);
        for (name, known) in shape {
            let Some(value) = entries.get(*name) else { continue };
            match (known, value) {
                (Known::Pointer(inner) | Known::Struct(inner), _) => self.add(value, inner),
                (Known::Items(inner), Value::Array(items)) => items.iter().for_each(|item| self.add(item, inner)),
                (Known::Entries(inner), Value::Object(items)) => items.values().for_each(|item| self.add(item, inner)),
                _ => {}
            }
        }
    }

    /// The shape of a value of the data that was given; `None` for any other value.
    pub(crate) fn get(&self, value: &Value) -> Option<Shape> {
        self.0.get(&std::ptr::from_ref(value).addr()).copied()
    }
}
