//! From answers to text: tables, templates, JSON, relative times, sizes.

pub mod ago;
pub mod json;
pub mod listing;
pub mod output;
pub mod size;
pub mod table;
