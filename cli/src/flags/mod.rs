//! The values of flags: from text to the model's types, one syntax a file.
//!
//! A parser answers a sentence that names what is wrong; the caller adds the flag.

pub mod address;
pub mod bytes;
pub mod capability;
pub mod choice;
pub mod csv;
pub mod duration;
pub mod env;
pub mod file;
pub mod filter;
pub mod host;
pub mod label;
pub mod mount;
pub mod network;
pub mod number;
pub mod placement;
pub mod publish;
pub mod subnet;
pub mod time;
pub mod ulimit;
