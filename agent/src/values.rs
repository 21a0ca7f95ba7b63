//! Values of secrets and configs that this node's tasks reference.
//!
//! They arrive with the assignments, wait here for the shims that need them, and
//! are zeroized when no assigned task references them any more. They are never
//! written anywhere else than into a shim's socket.

use skep_model::{ConfigId, SecretId};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use zeroize::Zeroizing;

type Value = Arc<Zeroizing<Vec<u8>>>;

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
        self.lock().secrets.insert((id, version), Arc::new(value));
    }

    /// A config version arrived.
    pub fn put_config(&self, id: ConfigId, version: u64, value: Zeroizing<Vec<u8>>) {
        self.lock().configs.insert((id, version), Arc::new(value));
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
