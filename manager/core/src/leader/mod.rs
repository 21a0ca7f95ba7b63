//! Leader.
