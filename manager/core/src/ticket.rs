//! Names of callers that wait for an answer.

/// Names a waiting caller; minted by the shell, never reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

impl Ticket {
    /// The manager itself waits; no shell mints this one.
    pub(crate) const OWN: Ticket = Ticket(u64::MAX);
}
