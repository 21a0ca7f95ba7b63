//! How much a message may hold, beyond its size in bytes.
//!
//! These bound memory, not meaning: what a user may ask for is checked in
//! `manager/core`, more narrowly. They also hold for what managers wrote
//! themselves, so they leave room: an entry of the log must never be refused when
//! it is read again.

/// The longest text, in bytes.
pub const TEXT_MAX: usize = 128 * 1024;
/// The most bytes in one field: a sealed config, or a piece of a stream.
pub const BYTES_MAX: usize = 1024 * 1024;
/// The most items of a list or map.
pub const LIST_MAX: usize = 100_000;
/// The longest name, id or prefix that a request refers to an object by, in bytes.
pub const REFERENCE_MAX: usize = 256;
/// The most filters of one request.
pub const FILTERS_MAX: usize = 256;
/// The largest service spec that a request may carry, in bytes of its encoding; a
/// transaction holds two of them at most.
pub const SERVICE_SPEC_MAX: usize = 256 * 1024;
/// The largest annotations, labels or settings a request may carry, in bytes of
/// their encoding.
pub const ANNOTATIONS_MAX: usize = 64 * 1024;
/// The longest description of a node in a hello, in bytes of its encoding. Here there is
/// room for twice of what is believed of it, so that what is too much is left out by itself
/// and said (`skep_model::said`).
pub const DESCRIPTION_MAX: usize = BYTES_MAX;
/// The longest certificate signing request, in bytes of PEM.
pub const CSR_MAX: usize = 16 * 1024;
/// The longest join token, in bytes.
pub const TOKEN_MAX: usize = 256;
