//! The harness of the end-to-end tests: real daemons, real containers, on one machine.
//!
//! What holds for every test that uses it:
//! - One test at a time on the whole machine: a [`Cluster`] holds a lock from before its first process to after its last.
//! - A cluster goes away however its test ends. A process outside the test's session, the guardian, holds the lock and
//!   waits for the test to let go of a pipe, which a panic, an exit and a SIGKILL do alike; then it runs
//!   `deploy/cluster down`, whose failure fails the test.
//! - Every wait has a deadline and says what it waited for. Where the cluster offers an event or a verdict (`service
//!   create` waits by itself) the test uses that; [`wait_for`] looks again and again only where there is none.
//! - Figures are printed as a table and judged: at ten times the figure in a check, at the figure with `SKEP_FULL=1`.
//!
//! With `SKEP_KEEP=1` a failed test leaves its cluster up for a look, and says how to remove it.

mod cluster;
mod figures;
mod hunt;
mod load;
mod said;
mod services;
mod traces;
mod wait;

pub use cluster::{Background, Cluster, Task};
pub use figures::{Figures, is_full};
pub use hunt::{Find, Hunt, Range};
pub use load::{Load, Report};
pub use said::Said;
pub use services::read_answer;
pub use traces::{Process, Traces};
pub use wait::wait_for;
