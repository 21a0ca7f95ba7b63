//! The only writer of the store.
