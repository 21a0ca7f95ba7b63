//! Tests that need a whole store: the real kernel's overlayfs, a real registry.

pub(crate) mod fixture;
mod loading;
mod pulling;
mod registry;
mod removing;
