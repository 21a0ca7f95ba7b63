//! Tests of the whole: the end-to-end harness, the simulator, and what both hold
//! stores to.

pub mod e2e;
pub mod owners;
pub mod sim;
pub mod slots;
