//! Values of secrets and configs that this node's tasks reference.
//!
//! They arrive with the assignments, wait here for the shims that need them, and
//! are zeroized when no assigned task references them any more. They are never
//! written anywhere else than into a shim's socket. Each has pages of its own,
//! locked in memory where this process may lock them; where it may not, that is
//! said once, and the pages may be swapped out.

use skep_identity::SecretBytes;
use skep_model::{ConfigId, SecretId};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, Once};
use zeroize::Zeroizing;

type Value = Arc<SecretBytes>;

#[derive(Default)]
struct Tables {
    secrets: BTreeMap<(SecretId, u64), Value>,
    configs: BTreeMap<(ConfigId, u64), Value>,
}

/// All values that are present.
#[derive(Default)]
pub struct Values(Mutex<Tables>);

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables = self.lock();
        write!(f, "Values({} secrets, {} configs)", tables.secrets.len(), tables.configs.len())
    }
}

impl Values {
    /// A secret version arrived.
    pub fn put_secret(&self, id: SecretId, version: u64, value: Zeroizing<Vec<u8>>) {
        self.lock().secrets.insert((id, version), locked(&value));
    }

    /// A config version arrived.
    pub fn put_config(&self, id: ConfigId, version: u64, value: Zeroizing<Vec<u8>>) {
        self.lock().configs.insert((id, version), locked(&value));
    }

    /// The value of a secret version, if it is here.
    pub fn secret(&self, id: SecretId, version: u64) -> Option<Value> {
        self.lock().secrets.get(&(id, version)).cloned()
    }

    /// The value of a config version, if it is here.
    pub fn config(&self, id: ConfigId, version: u64) -> Option<Value> {
        self.lock().configs.get(&(id, version)).cloned()
    }

    /// No task references it any more.
    pub fn drop_secret(&self, id: SecretId, version: u64) {
        self.lock().secrets.remove(&(id, version));
    }

    /// No task references it any more.
    pub fn drop_config(&self, id: ConfigId, version: u64) {
        self.lock().configs.remove(&(id, version));
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Why values may be swapped out, said once.
static UNLOCKED: Once = Once::new();

fn locked(value: &[u8]) -> Value {
    let value = SecretBytes::copy_of(value);
    if !value.is_locked() {
        UNLOCKED.call_once(|| {
            tracing::warn!(
                "secrets on this node may be swapped out: skepd may not lock enough memory; give it CAP_IPC_LOCK or a higher \
                 RLIMIT_MEMLOCK (LimitMEMLOCK=), or switch swap off"
            );
        });
    }
    Arc::new(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kilobytes of this process that are locked.
    fn locked_kb() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").expect("a status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    #[test]
    fn values_are_in_locked_memory_and_leave_it() {
        let (values, id, before) = (Values::default(), SecretId::from_random([1; 16]), locked_kb());
        values.put_secret(id, 1, Zeroizing::new(vec![7; 200_000]));
        assert_eq!(&values.secret(id, 1).expect("here")[..], &[7; 200_000]);
        assert!(locked_kb() >= before + 190, "{} after {before}", locked_kb());
        values.drop_secret(id, 1);
        assert!(locked_kb() < before + 190);
    }
}
