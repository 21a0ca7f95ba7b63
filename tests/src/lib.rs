//! Tests of the whole: the end-to-end harness, and the simulator.

pub mod e2e;
pub mod sim;
