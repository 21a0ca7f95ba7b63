//! A small cluster's worth of certificates and a server for them.
#![allow(dead_code)] // Each test binary uses its part.

use std::future::Future;
use std::time::Duration;

use skep_host::clock;
use skep_identity::Role;
use skep_identity::ca::{Issue, NODE_VALIDITY, NodeKey, RootCa};
use skep_identity::tls::{AcceptLimits, Connections, Incoming, Material, TlsIdentity};
use skep_model::Time;
use tokio::net::TcpListener;

pub const CLUSTER: &str = "cluster1";

/// Issues a node's identity now.
pub fn node(root: &RootCa, id: &str, role: Role) -> TlsIdentity {
    node_at(root, id, role, CLUSTER, clock::now())
}

/// Issues a node's identity as if it were `now`, for 90 days.
pub fn node_at(root: &RootCa, id: &str, role: Role, cluster_id: &str, now: Time) -> TlsIdentity {
    TlsIdentity::new(&parts(root, id, role, cluster_id, now).material(root.certificate_pem())).unwrap()
}

pub struct Parts {
    pub key: NodeKey,
    pub chain_pem: String,
}

impl Parts {
    pub fn material<'a>(&'a self, roots_pem: &'a str) -> Material<'a> {
        Material { chain_pem: &self.chain_pem, key_pkcs8: self.key.pkcs8(), roots_pem }
    }
}

pub fn parts(root: &RootCa, id: &str, role: Role, cluster_id: &str, now: Time) -> Parts {
    let key = NodeKey::generate().unwrap();
    let issue = Issue { node_id: id, role, cluster_id, now, validity: NODE_VALIDITY };
    let chain_pem = root.sign_csr(&key.signing_request().unwrap(), &issue).unwrap();
    Parts { key, chain_pem }
}

/// A server on a free loopback port.
pub async fn listen(identity: TlsIdentity, limits: AcceptLimits) -> (Incoming, Connections, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let connections = Connections::default();
    (Incoming::new(listener, identity, connections.clone(), limits), connections, address)
}

/// No test waits for ever.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it happens soon")
}
