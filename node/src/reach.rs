//! Asking managers: which are known, and getting an answer from the one that leads.
//!
//! Every connection is made anew, because it shows the certificate of the moment:
//! that is what these calls are about.

use crate::failure::Failure;
use crate::identity::Issued;
use crate::member::managers_file;
use crate::node::{Node, View};
use crate::state::NodeFile;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use skep_host::chance;
use skep_identity::ca::NodeKey;
use skep_identity::seal::UnsealingKey;
use skep_identity::tls::{Connector, TlsIdentity};
use skep_model::version::{FORMAT_MAX, PROTOCOL_MAX, PROTOCOL_MIN};
use skep_proto::v1::ca_client::CaClient;
use skep_proto::v1::raft_client::RaftClient;
use skep_proto::v1::{IssueReply, IssueRequest, JoinRaftRequest};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tonic::transport::Channel;

/// How long a manager may take to answer one call.
const CALL_MAX: Duration = Duration::from_secs(8);
/// How long all managers together may take.
const ROUNDS_MAX: Duration = Duration::from_secs(20);
/// Between two rounds over all of them, while an election is on.
const ROUND_PAUSE: Duration = Duration::from_millis(200);

/// Where managers are to be found. It is looked up for every round anew: one may have
/// another address than when the asking began, and the session or raft hears of that.
pub struct Managers<'a> {
    node: &'a Node,
    file: NodeFile,
    has_self: bool,
}

impl<'a> Managers<'a> {
    /// All but this node.
    pub fn others(node: &'a Node, file: &NodeFile) -> Self {
        Self { node, file: file.clone(), has_self: false }
    }

    /// This node's own manager as well, last.
    pub fn all(node: &'a Node, file: &NodeFile) -> Self {
        Self { has_self: true, ..Self::others(node, file) }
    }

    fn known(&self) -> Vec<String> {
        let mut known = known_managers(&self.node.view(), &self.node.settings.data, &self.file);
        known.extend(self.has_self.then(|| self.file.advertise.to_string()));
        known
    }
}

/// A place in raft.
#[derive(Debug)]
pub struct Placed {
    /// This node's raft id.
    pub raft_id: u64,
    /// The others, by raft id.
    pub peers: BTreeMap<u64, String>,
}

/// Every manager this node has heard of: by its session, its file, its join; the
/// likeliest first. This node is not among them.
fn known_managers(view: &View, data: &Path, file: &NodeFile) -> Vec<String> {
    let mut known = Vec::<String>::new();
    let own = file.advertise.to_string();
    let mut add = |address: &str| {
        if !address.is_empty() && address != own && !known.iter().any(|other| other == address) {
            known.push(address.to_owned());
        }
    };
    let leader = view.leadership.as_ref().and_then(|leadership| leadership.borrow().leader.clone());
    leader.iter().for_each(|(_, address)| add(address));
    let managers =
        view.info.as_ref().and_then(|info| info.borrow().as_ref().map(|info| info.managers.clone())).unwrap_or_default();
    managers.iter().for_each(|(_, address)| add(address));
    managers_on_file(data, file).iter().for_each(|address| add(address));
    known
}

/// The managers that are written down, this node perhaps among them.
pub fn managers_on_file(data: &Path, file: &NodeFile) -> Vec<String> {
    let saved = std::fs::read_to_string(managers_file(data)).unwrap_or_default();
    saved.lines().map(str::to_owned).chain(file.managers.iter().cloned()).collect()
}

/// Calls one manager after the other until one answers for good: who is not the
/// leader says who is, and who does not answer may do so later.
///
/// # Errors
/// The first refusal that asking elsewhere would not change, or that it took too long.
async fn ask<T, F: Future<Output = Result<T, Failure>> + Send>(
    what: &'static str,
    managers: &Managers<'_>,
    call: impl Fn(String) -> F,
) -> Result<T, Failure> {
    let mut last = String::new();
    let rounds = async {
        loop {
            let mut next = managers.known();
            let mut asked = BTreeSet::new();
            while !next.is_empty() {
                let address = next.remove(0);
                asked.insert(address.clone());
                let answer = tokio::time::timeout(CALL_MAX, call(address)).await.unwrap_or_else(|_| {
                    Err(Failure::Late { what: "the call to a manager", limit: CALL_MAX, last: String::new() })
                });
                match answer {
                    Err(failure) if failure.may_pass() => {
                        last = format!("; the last answer: {}", failure.line());
                        if let Some(leader) = failure.leader().filter(|leader| !asked.contains(leader)) {
                            next.retain(|other| *other != leader);
                            next.insert(0, leader);
                        }
                    }
                    answer => return answer,
                }
            }
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    };
    let answer = tokio::time::timeout(ROUNDS_MAX, rounds).await;
    answer.unwrap_or(Err(Failure::Late { what, limit: ROUNDS_MAX, last }))
}

/// Connects as this node is now.
async fn connect(tls: &TlsIdentity, address: &str) -> Result<Channel, Failure> {
    let connected = Connector::member(tls.clone()).connect(address).await;
    connected.map_err(|source| Failure::Unreachable { address: address.to_owned(), source })
}

/// A signing request as the CA wants it.
///
/// # Errors
/// If signing fails.
pub fn signing_request(key: &NodeKey) -> Result<String, Failure> {
    Ok(STANDARD.encode(key.signing_request()?))
}

/// A new id for a request that may be repeated.
pub fn request_id() -> Vec<u8> {
    chance::bytes::<16>().to_vec()
}

/// What was issued, out of the CA's answer.
pub fn issued(key: NodeKey, reply: &IssueReply) -> Issued {
    Issued { key, chain: reply.certificate_chain.clone(), roots: reply.root_ca.clone() }
}

/// Asks for this node's next certificate, with a new key.
///
/// # Errors
/// If no manager issues one.
pub async fn renew(tls: &TlsIdentity, managers: &Managers<'_>, hostname: &str) -> Result<Issued, Failure> {
    let key = NodeKey::generate()?;
    let csr = signing_request(&key)?;
    let id = request_id();
    let reply = ask("the renewal of this node's certificate", managers, |address| {
        let request =
            IssueRequest { csr: csr.clone(), hostname: hostname.to_owned(), request_id: id.clone(), ..IssueRequest::default() };
        let tls = tls.clone();
        async move {
            let answer = CaClient::new(connect(&tls, &address).await?).issue(request).await;
            answer.map(tonic::Response::into_inner).map_err(Failure::Answered)
        }
    })
    .await?;
    Ok(issued(key, &reply))
}

/// Asks for a place in raft. A repeat gets the same one.
///
/// # Errors
/// If no manager gives one.
pub async fn join_raft(
    own: &TlsIdentity,
    managers: &Managers<'_>,
    advertise: SocketAddr,
    unsealing: &UnsealingKey,
) -> Result<Placed, Failure> {
    let request = JoinRaftRequest {
        request_id: request_id(),
        address: advertise.to_string(),
        unsealing_key: unsealing.public().0.to_vec(),
        format_max: FORMAT_MAX,
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
    };
    let node = own.node().node_id;
    ask("joining the managers", managers, |address| {
        let (request, tls, own) = (request.clone(), own.clone(), node.clone());
        async move {
            let answer = RaftClient::new(connect(&tls, &address).await?).join_raft(request).await;
            let reply = answer.map(tonic::Response::into_inner).map_err(Failure::Answered)?;
            if reply.raft_id == 0 {
                return Err(Failure::Senseless { address, what: "place in raft" });
            }
            let others = reply.members.into_iter().filter(|member| member.node_id != own);
            Ok(Placed { raft_id: reply.raft_id, peers: others.map(|member| (member.raft_id, member.address)).collect() })
        }
    })
    .await
}
