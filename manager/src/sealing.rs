//! The cluster's keys on a manager: what is sealed, opened and signed with them.
//!
//! The sealing key itself is in the store, wrapped for each manager. It is
//! unwrapped with this node's private key when it is first needed and kept in
//! locked memory. Whatever is opened here lives only as long as the caller needs
//! it and is zeroized with its owner.

use skep_host::clock;
use skep_identity::SecretBytes;
use skep_identity::ca::{Issue, RootCa};
use skep_identity::seal::{Binding, SealingKey, UnsealingKey, UnsealingPublicKey, fingerprint};
use skep_identity::token::{JoinToken, RootDigest};
use skep_manager_core::Store;
use skep_manager_core::values::{ValueRef, open_all};
use skep_model::assignment::Assignments;
use skep_model::cluster::{Cluster, ClusterPlan, ClusterSpec, SealingSlot};
use skep_model::node::Role;
use skep_model::sealed::Sealed;
use skep_model::{ClusterId, Id, Meta, NodeId, Refusal, Section};
use skep_proto::assignment::{MissingValue, Values, encode};
use skep_proto::v1::{self, Confidential};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use zeroize::Zeroizing;

/// What kind of thing a sealed record is; bound into the seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A version of a secret.
    Secret,
    /// A version of a config.
    Config,
    /// The root's private key.
    CaKey,
    /// The join token of a role.
    Token(Role),
    /// The key of fingerprints.
    FingerprintKey,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Config => "config",
            Self::CaKey => "root ca key",
            Self::Token(Role::Worker) => "worker join token",
            Self::Token(Role::Manager) => "manager join token",
            Self::FingerprintKey => "fingerprint key",
        }
    }
}

/// This manager's access to the cluster's keys.
pub struct Sealing {
    node: NodeId,
    private: UnsealingKey,
    keys: Mutex<BTreeMap<u32, Arc<SealingKey>>>,
}

impl fmt::Debug for Sealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealing({} generations)", self.lock().len())
    }
}

/// What is made for a new cluster, before there is a store.
#[derive(Debug)]
pub struct NewCluster {
    /// The cluster object for the first mutation.
    pub cluster: Cluster,
    /// The first manager's certificate chain, PEM.
    pub certificate: String,
}

impl Sealing {
    /// Access with this node's private unsealing key.
    pub fn new(node: NodeId, private: UnsealingKey) -> Self {
        Self { node, private, keys: Mutex::default() }
    }

    /// Makes root, sealing key, tokens and fingerprint key of a new cluster, and
    /// signs the first manager's certificate request (DER).
    pub fn new_cluster(&self, id: ClusterId, spec: ClusterSpec, request_der: &[u8]) -> Result<NewCluster, Refusal> {
        let root = RootCa::create(clock::now()).map_err(|error| failed("make the root CA", &error))?;
        let key = Arc::new(SealingKey::generate(1));
        let slot =
            self.private.public().wrap(&key, self.node.as_str()).map_err(|error| failed("wrap the sealing key", &error))?;
        let seal = |kind: Kind, value: &[u8]| seal_with(&key, kind, id.0, 0, value);
        let token = |role| seal(Kind::Token(role), JoinToken::generate(root.digest()).reveal().as_bytes());
        let plan = ClusterPlan {
            root_ca: root.certificate_pem().into(),
            sealed_ca_key: seal(Kind::CaKey, &root.key_pkcs8())?,
            sealed_worker_token: token(Role::Worker)?,
            sealed_manager_token: token(Role::Manager)?,
            sealed_fingerprint_key: seal(Kind::FingerprintKey, &SecretBytes::random(32))?,
            sealing_slots: BTreeMap::from([(self.node, vec![SealingSlot { generation: 1, bytes: slot }])]),
            sealing_generation: 1,
            format: skep_model::version::FORMAT_MAX,
            ..ClusterPlan::default()
        };
        let issue = Issue {
            node_id: self.node.as_str(),
            role: Role::Manager,
            cluster_id: id.as_str(),
            now: clock::now(),
            validity: spec.node_cert_expiry,
        };
        let certificate = root.sign_csr(request_der, &issue).map_err(|error| failed("sign the first certificate", &error))?;
        self.lock().insert(1, key);
        let cluster = Cluster { id, meta: Meta::default(), spec: Section::new(spec), plan: Section::new(plan) };
        Ok(NewCluster { cluster, certificate })
    }

    /// Seals a value under the newest generation.
    pub fn seal(&self, store: &Store, kind: Kind, id: Id, version: u64, value: &[u8]) -> Result<Sealed, Refusal> {
        let key = self.key(store, cluster(store)?.plan.sealing_generation)?;
        seal_with(&key, kind, id, version, value)
    }

    /// Opens a sealed value.
    pub fn open(&self, store: &Store, kind: Kind, id: Id, version: u64, sealed: &Sealed) -> Result<SecretBytes, Refusal> {
        let key = self.key(store, sealed.key_generation)?;
        let binding = Binding { kind: kind.name(), id: id.as_str(), version };
        key.open(binding, sealed).map_err(|error| failed("open a sealed value", &error))
    }

    /// The fingerprint of a secret's value under the cluster's key.
    pub fn fingerprint(&self, store: &Store, value: &[u8]) -> Result<String, Refusal> {
        let cluster = cluster(store)?;
        let key = self.open(store, Kind::FingerprintKey, cluster.id.0, 0, &cluster.plan.sealed_fingerprint_key)?;
        Ok(fingerprint(&key, value))
    }

    /// A new join token for a role, sealed.
    pub fn new_token(&self, store: &Store, role: Role) -> Result<Sealed, Refusal> {
        let cluster = cluster(store)?;
        let token = JoinToken::generate(RootDigest::of(cluster.plan.root_ca.as_bytes()));
        self.seal(store, Kind::Token(role), cluster.id.0, 0, token.reveal().as_bytes())
    }

    /// Both join tokens, in the clear.
    pub fn join_tokens(&self, store: &Store) -> Result<v1::JoinTokens, Refusal> {
        let reveal = |role| self.token(store, role).map(|token| Some(Confidential::new(token.reveal().as_bytes().to_vec())));
        Ok(v1::JoinTokens { worker: reveal(Role::Worker)?, manager: reveal(Role::Manager)? })
    }

    /// Both join tokens as texts: worker, manager.
    pub fn tokens(&self, store: &Store) -> Result<(Zeroizing<String>, Zeroizing<String>), Refusal> {
        Ok((self.token(store, Role::Worker)?.reveal(), self.token(store, Role::Manager)?.reveal()))
    }

    /// The role that a join token admits to; every comparison takes constant time
    /// and both are made.
    pub fn role_of_token(&self, store: &Store, shown: &JoinToken) -> Result<Role, Refusal> {
        let refused = || Refusal::PermissionDenied("A valid join token is necessary to join this cluster".into());
        let is_worker = self.token(store, Role::Worker)?.matches(shown);
        let is_manager = self.token(store, Role::Manager)?.matches(shown);
        match (is_worker, is_manager) {
            (true, _) => Ok(Role::Worker),
            (_, true) => Ok(Role::Manager),
            _ => Err(refused()),
        }
    }

    /// Whether a token is of another root than this cluster's, which it has for good:
    /// then no change that is not here yet makes it one of ours.
    pub fn is_foreign(&self, store: &Store, shown: &JoinToken) -> bool {
        store.cluster().is_some_and(|cluster| RootDigest::of(cluster.plan.root_ca.as_bytes()) != shown.digest())
    }

    /// Signs a node's certificate request (base64 of its DER). Returns the chain, PEM.
    pub fn sign(&self, store: &Store, request: &str, node: NodeId, role: Role, validity: Duration) -> Result<String, Refusal> {
        let der = decode_request(request)?;
        let cluster = cluster(store)?;
        let key = self.open(store, Kind::CaKey, cluster.id.0, 0, &cluster.plan.sealed_ca_key)?;
        let root = RootCa::restore(&cluster.plan.root_ca, &key).map_err(|error| failed("restore the root CA", &error))?;
        let issue = Issue { node_id: node.as_str(), role, cluster_id: cluster.id.as_str(), now: clock::now(), validity };
        root.sign_csr(&der, &issue).map_err(|error| Refusal::invalid("certificate request", "", error.to_string()))
    }

    /// The sealing key, every generation, wrapped for a manager's public key.
    pub fn slots_for(&self, store: &Store, node: NodeId, public: &[u8]) -> Result<Vec<SealingSlot>, Refusal> {
        let public = <[u8; 32]>::try_from(public).map_err(|_| Refusal::invalid("unsealing key", "", "it has 32 bytes"))?;
        let own = cluster(store)?.plan.sealing_slots.get(&self.node).cloned().unwrap_or_default();
        let wrap = |slot: SealingSlot| {
            let key = self.key(store, slot.generation)?;
            let wrapped = UnsealingPublicKey(public).wrap(&key, node.as_str());
            let bytes = wrapped.map_err(|error| failed("wrap the sealing key", &error))?;
            Ok(SealingSlot { generation: slot.generation, bytes })
        };
        own.into_iter().map(wrap).collect()
    }

    fn token(&self, store: &Store, role: Role) -> Result<JoinToken, Refusal> {
        let cluster = cluster(store)?;
        let sealed = if role == Role::Worker { &cluster.plan.sealed_worker_token } else { &cluster.plan.sealed_manager_token };
        let opened = self.open(store, Kind::Token(role), cluster.id.0, 0, sealed)?;
        let text = std::str::from_utf8(&opened).map_err(|error| failed("read a join token", &error))?;
        JoinToken::parse(text).map_err(|error| failed("read a join token", &error))
    }

    fn key(&self, store: &Store, generation: u32) -> Result<Arc<SealingKey>, Refusal> {
        let mut keys = self.lock();
        if let Some(key) = keys.get(&generation) {
            return Ok(key.clone());
        }
        let slots = cluster(store)?.plan.sealing_slots.get(&self.node);
        let slot = slots.and_then(|slots| slots.iter().find(|slot| slot.generation == generation));
        let slot = slot.ok_or_else(|| {
            Refusal::Unavailable(format!("this manager has no slot for generation {generation} of the sealing key yet"))
        })?;
        let key = self.private.unwrap(&slot.bytes, self.node.as_str(), generation);
        let key = Arc::new(key.map_err(|error| failed("unwrap the sealing key", &error))?);
        keys.insert(generation, key.clone());
        Ok(key)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<SealingKey>>> {
        self.keys.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Values that could not be had, each with why.
pub type LeftOut = Vec<(ValueRef, String)>;

/// The messages of a link in the chain, with the values that it names, opened; and
/// the values that were left out, with why.
pub fn with_values(
    sealing: &Sealing,
    store: &Store,
    mut assignments: Assignments,
) -> Result<(Vec<v1::Assignments>, LeftOut), MissingValue> {
    let opened = open_all(&mut assignments, store, |value, sealed| match value {
        ValueRef::Secret(id, n) => sealing.open(store, Kind::Secret, id.0, n, sealed),
        ValueRef::Config(id, n) => sealing.open(store, Kind::Config, id.0, n, sealed),
    });
    let mut values = Values::default();
    for (value, plain) in opened.values {
        match value {
            ValueRef::Secret(id, n) => drop(values.secrets.insert((id, n), Confidential::new(plain.to_vec()))),
            ValueRef::Config(id, n) => drop(values.configs.insert((id, n), plain.to_vec())),
        }
    }
    Ok((encode(&assignments, &mut values)?, opened.left_out))
}

fn seal_with(key: &SealingKey, kind: Kind, id: Id, version: u64, value: &[u8]) -> Result<Sealed, Refusal> {
    let binding = Binding { kind: kind.name(), id: id.as_str(), version };
    key.seal(binding, value).map_err(|error| failed("seal a value", &error))
}

fn cluster(store: &Store) -> Result<&Arc<Cluster>, Refusal> {
    store.cluster().ok_or_else(|| Refusal::Unavailable("this manager does not have the cluster's state yet".into()))
}

/// Checks that a text has the form of a certificate request, signed with its own key.
pub fn check_request(text: &str) -> Result<(), Refusal> {
    let checked = skep_identity::ca::check_csr(&decode_request(text)?);
    checked.map_err(|error| Refusal::invalid("certificate request", "", error.to_string()))
}

fn decode_request(text: &str) -> Result<Vec<u8>, Refusal> {
    use base64::Engine;
    let decoded = base64::engine::general_purpose::STANDARD.decode(text);
    decoded.map_err(|_| Refusal::invalid("certificate request", "", "it is not the base64 form of a request"))
}

fn failed(what: &str, error: &dyn std::error::Error) -> Refusal {
    Refusal::FailedPrecondition(format!("could not {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_identity::ca::NodeKey;
    use skep_manager_core::{Transaction, Write};
    use skep_model::assignment::AssignmentChange;
    use skep_model::secret::{Secret, SecretSpec, SecretVersion};
    use skep_model::service::Annotations;
    use skep_model::{Object, SecretId, TaskId, Time};

    /// One value that does not open costs a session nothing but that value.
    #[test]
    fn a_value_that_does_not_open_is_left_out_of_the_messages() {
        let sealing = Sealing::new(NodeId::from_random([1; 16]), UnsealingKey::generate());
        let request = NodeKey::generate().expect("a key").signing_request().expect("a request");
        let made = sealing.new_cluster(ClusterId::from_random([2; 16]), ClusterSpec::default(), &request).expect("a cluster");
        let mut store = Store::default();
        let put = |store: &mut Store, object: Object| {
            let transaction = Transaction { writes: vec![Write::Create(object)], ..Transaction::new(Time::ZERO) };
            store.apply(store.version + 1, &transaction).expect("it is new");
        };
        put(&mut store, Object::Cluster(Box::new(made.cluster)));
        let id = SecretId::from_random([3; 16]);
        let version = |n: u64, sealed: Sealed| SecretVersion { n, sealed, fingerprint: String::new(), created_at: Time::ZERO };
        let good = sealing.seal(&store, Kind::Secret, id.0, 1, b"value").expect("it seals");
        // Sealed as another version, and under a key that this manager does not have.
        let (moved, foreign) = (good.clone(), Sealed { key_generation: 9, ..good.clone() });
        let versions = vec![version(1, good), version(2, moved), version(3, foreign)];
        let annotations = Annotations { name: "s".into(), ..Annotations::default() };
        let spec = SecretSpec { annotations, versions, current: 3 };
        put(&mut store, Object::Secret(Box::new(Secret { id, meta: Meta::default(), spec: Section::new(spec) })));
        let gone = SecretId::from_random([4; 16]);
        let mut changes: Vec<AssignmentChange> = (1..=3).map(|n| AssignmentChange::PutSecret(id, n)).collect();
        changes.push(AssignmentChange::PutSecret(gone, 1));
        changes.push(AssignmentChange::RemoveTask(TaskId::from_random([5; 16])));
        let link = Assignments { is_complete: true, applies_to: 0, results_in: 1, changes };
        let (messages, left_out) = with_values(&sealing, &store, link).expect("what is named is there");
        let left_out: Vec<ValueRef> = left_out.into_iter().map(|(value, _)| value).collect();
        assert_eq!(left_out, [ValueRef::Secret(id, 2), ValueRef::Secret(id, 3), ValueRef::Secret(gone, 1)]);
        let link = skep_proto::assignment::Assembler::default()
            .push(messages.into_iter().next().expect("one"))
            .expect("it reads")
            .expect("it is whole");
        assert_eq!((link.assignments.changes.len(), link.left_out.len()), (2, 0));
        assert_eq!(link.values.secrets.get(&(id, 1)).map(|value| value.text()), Some(Ok("value")));
    }
}
