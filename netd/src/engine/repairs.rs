//! What drifted and was repaired, counted and named.

use super::Status;

/// Repairs that are kept by name.
const REPAIRS_MAX: usize = 256;

impl Status {
    /// Counts a repair of a kind of row; `by_audit` = no event told of the need.
    pub(super) fn count(&mut self, kind: &str, text: String, by_audit: bool) {
        tracing::warn!(repair = text, by_audit, "the kernel drifted; it is repaired");
        *self.repaired.entry(kind.to_owned()).or_default() += 1;
        self.repaired_by_audit += u64::from(by_audit);
        if self.repairs.len() == REPAIRS_MAX {
            self.repairs.pop_front();
        }
        self.repairs.push_back(text);
    }
}
