//! A node's identity: the open keystore and what TLS makes of it.
//!
//! Both change together, the keystore first: what others get to see is on disk.

use crate::failure::Failure;
use skep_host::clock;
use skep_identity::ca::{Issue, NodeKey, RootCa};
use skep_identity::keystore::{Keys, Keystore, UnlockKey};
use skep_identity::seal::UnsealingKey;
use skep_identity::tls::{Material, TlsIdentity};
use skep_identity::{NodeIdentity, SecretBytes};
use skep_model::node::Role;
use skep_model::{ClusterId, NodeId};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The bytes of a data key.
const DATA_KEY_LENGTH: usize = 32;

/// What was issued to this node.
pub struct Issued {
    /// The key that was made for it.
    pub key: NodeKey,
    /// The chain, PEM.
    pub chain: String,
    /// The roots, PEM.
    pub roots: String,
}

/// A node's open keystore and its TLS identity.
pub struct Identity {
    keystore: Keystore,
    tls: TlsIdentity,
}

/// Where a data folder has its keystore.
pub fn folder(data: &Path) -> PathBuf {
    data.join("identity")
}

impl Identity {
    /// Makes the keystore of a node that has just got its first certificate. With
    /// `kek` the keystore is locked: that key is kept on no disk.
    ///
    /// # Errors
    /// If there is one already, writing fails, or the certificate is unusable.
    pub fn create(data: &Path, issued: Issued, manager: Option<ManagerKeys>, kek: Option<UnlockKey>) -> Result<Self, Failure> {
        // What cannot be used is not kept.
        let tls =
            TlsIdentity::new(&Material { chain_pem: &issued.chain, key_pkcs8: issued.key.pkcs8(), roots_pem: &issued.roots })?;
        let mut keys = Keys {
            tls_key: Some(issued.key.pkcs8().duplicate()),
            certificate_pem: issued.chain,
            roots_pem: issued.roots,
            ..Keys::default()
        };
        if let Some(manager) = manager {
            manager.put_into(&mut keys);
        }
        let is_locked = kek.is_some();
        let keystore = Keystore::create(&folder(data), kek.unwrap_or_else(UnlockKey::generate), is_locked, keys)?;
        Ok(Self { keystore, tls })
    }

    /// The identity in an opened keystore.
    ///
    /// # Errors
    /// If its certificate or key is unusable.
    pub fn of(keystore: Keystore) -> Result<Self, Failure> {
        let keys = keystore.keys();
        let Some(key) = &keys.tls_key else {
            return Err(Failure::precondition("this node's keystore holds no key; leave the cluster by force and join again"));
        };
        let tls = TlsIdentity::new(&Material { chain_pem: &keys.certificate_pem, key_pkcs8: key, roots_pem: &keys.roots_pem })?;
        Ok(Self { keystore, tls })
    }

    /// What TLS shows; it follows every change.
    pub fn tls(&self) -> &TlsIdentity {
        &self.tls
    }

    /// Who this node is by its certificate.
    pub fn node(&self) -> NodeIdentity {
        self.tls.node()
    }

    /// The keystore's key, if it is kept off the disk.
    pub fn unlock_key(&self) -> Option<&UnlockKey> {
        self.keystore.is_autolocked().then(|| self.keystore.unlock_key())
    }

    /// Seals the locked keystore with a new key, which is kept on no disk.
    ///
    /// # Errors
    /// If writing fails.
    pub fn rotate_unlock_key(&mut self) -> Result<&UnlockKey, Failure> {
        self.keystore.rekey(UnlockKey::generate(), true)?;
        Ok(self.keystore.unlock_key())
    }

    /// Puts a new certificate away and shows it from now on.
    ///
    /// # Errors
    /// If it is unusable or another node's, or writing fails: the old one then stays in use.
    pub fn renew(&mut self, issued: Issued) -> Result<(), Failure> {
        let material = Material { chain_pem: &issued.chain, key_pkcs8: issued.key.pkcs8(), roots_pem: &issued.roots };
        let (before, after) = (self.node(), TlsIdentity::new(&material)?.node());
        if (&before.node_id, &before.cluster_id) != (&after.node_id, &after.cluster_id) {
            let (found, expected) = (after.cluster_id, before.cluster_id);
            return Err(skep_identity::Refusal::OtherCluster { found, expected }.into());
        }
        self.keystore.change(|keys| {
            keys.tls_key = Some(issued.key.pkcs8().duplicate());
            keys.certificate_pem.clone_from(&issued.chain);
            keys.roots_pem.clone_from(&issued.roots);
        })?;
        self.tls.update(&material)?;
        Ok(())
    }

    /// The keys of this node's manager, made when it has none.
    ///
    /// # Errors
    /// If writing fails.
    pub fn manager_keys(&mut self) -> Result<ManagerKeys, Failure> {
        let keys = self.keystore.keys();
        if let (Some(unsealing), false) = (&keys.unsealing_key, keys.data_keys.is_empty()) {
            let data = keys.data_keys.iter().map(|(generation, key)| (*generation, key.duplicate())).collect();
            return Ok(ManagerKeys { data, unsealing: UnsealingKey::from_bytes(unsealing.duplicate())? });
        }
        let made = ManagerKeys::generate();
        self.keystore.change(|keys| made.put_into(keys))?;
        Ok(made)
    }

    /// Forgets the keys of a manager that is none any more.
    ///
    /// # Errors
    /// If writing fails.
    pub fn drop_manager_keys(&mut self) -> Result<(), Failure> {
        if self.keystore.keys().unsealing_key.is_none() && self.keystore.keys().data_keys.is_empty() {
            return Ok(());
        }
        Ok(self.keystore.change(|keys| {
            keys.unsealing_key = None;
            keys.data_keys.clear();
        })?)
    }
}

/// What a manager's log and its slot of the sealing key are opened with.
pub struct ManagerKeys {
    /// The log's, by generation.
    pub data: BTreeMap<u32, SecretBytes>,
    /// The slot's.
    pub unsealing: UnsealingKey,
}

impl ManagerKeys {
    /// New ones.
    pub fn generate() -> Self {
        Self { data: BTreeMap::from([(1, SecretBytes::random(DATA_KEY_LENGTH))]), unsealing: UnsealingKey::generate() }
    }

    fn put_into(&self, keys: &mut Keys) {
        keys.data_keys = self.data.iter().map(|(generation, key)| (*generation, key.duplicate())).collect();
        keys.unsealing_key = Some(self.unsealing.bytes().duplicate());
    }
}

/// An identity that nobody accepts, for an agent that only removes what is here.
///
/// # Errors
/// If the operating system gives no random numbers.
pub fn throwaway(node: NodeId, cluster: ClusterId) -> Result<TlsIdentity, Failure> {
    let (root, key) = (RootCa::create(clock::now())?, NodeKey::generate()?);
    let issue = Issue {
        node_id: node.as_str(),
        role: Role::Worker,
        cluster_id: cluster.as_str(),
        now: clock::now(),
        validity: Duration::from_secs(3600),
    };
    let chain = root.sign_csr(&key.signing_request()?, &issue)?;
    Ok(TlsIdentity::new(&Material { chain_pem: &chain, key_pkcs8: key.pkcs8(), roots_pem: root.certificate_pem() })?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_identity::keystore::Opened;

    fn issued(root: &RootCa, node: &str, role: Role) -> Issued {
        let key = NodeKey::generate().unwrap();
        let issue = Issue { node_id: node, role, cluster_id: "cluster", now: clock::now(), validity: Duration::from_secs(3600) };
        let chain = root.sign_csr(&key.signing_request().unwrap(), &issue).unwrap();
        Issued { key, chain, roots: root.certificate_pem().to_owned() }
    }

    fn reopen(data: &Path) -> Identity {
        match Keystore::open(&folder(data)).unwrap() {
            Opened::Open(keystore) => Identity::of(keystore).unwrap(),
            _ => panic!("the keystore is not open"),
        }
    }

    #[test]
    fn an_identity_is_renewed_on_disk_and_in_use() {
        let (folder, root) = (tempfile::tempdir().unwrap(), RootCa::create(clock::now()).unwrap());
        let mut identity = Identity::create(folder.path(), issued(&root, "n1", Role::Worker), None, None).unwrap();
        let shown = identity.tls().clone();
        identity.renew(issued(&root, "n1", Role::Manager)).unwrap();
        assert_eq!(shown.node().role, Role::Manager);
        assert!(identity.renew(issued(&root, "n2", Role::Worker)).is_err());
        assert_eq!(shown.node().node_id, "n1");
        drop(identity);
        assert_eq!(reopen(folder.path()).node(), shown.node());
    }

    #[test]
    fn a_managers_keys_stay_the_same_until_they_are_dropped() {
        let (folder, root) = (tempfile::tempdir().unwrap(), RootCa::create(clock::now()).unwrap());
        let mut identity = Identity::create(folder.path(), issued(&root, "n1", Role::Manager), None, None).unwrap();
        let first = identity.manager_keys().unwrap();
        drop(identity);
        let mut identity = reopen(folder.path());
        let again = identity.manager_keys().unwrap();
        assert!(first.data[&1] == again.data[&1] && first.unsealing.bytes() == again.unsealing.bytes());
        identity.drop_manager_keys().unwrap();
        assert!(reopen(folder.path()).manager_keys().unwrap().data[&1] != first.data[&1]);
    }

    #[test]
    fn a_throwaway_identity_is_the_nodes() {
        let (node, cluster) = (NodeId::from_random([1; 16]), ClusterId::from_random([2; 16]));
        let identity = throwaway(node, cluster).unwrap();
        assert_eq!(identity.node().node_id, node.as_str());
    }
}
