//! From answers to text: tables, templates, JSON, relative times, sizes.

pub mod ago;
pub mod inspect;
pub mod json;
pub mod label;
pub mod listing;
pub mod output;
pub mod ports;
pub mod progress;
#[cfg(test)]
pub mod sample;
pub mod size;
pub mod table;
