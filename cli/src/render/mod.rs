//! From answers to text: tables, templates, JSON, relative times, sizes.

pub mod ago;
pub mod inspect;
pub mod listing;
pub mod output;
pub mod ports;
pub mod pretty;
pub mod progress;
#[cfg(test)]
pub mod sample;
pub mod shape;
pub mod size;
pub mod table;
pub mod text;
pub mod trust;
