//! `swarm join`: this node becomes a member of a cluster that exists.
//!
//! The root is fetched from a manager that nobody vouches for and compared with
//! the token; only then that manager gets to see the token. With the certificate
//! in the keystore the node is a member; as a manager it then asks for its place
//! in raft. A failure undoes what is on this node; the cluster may be left with a
//! node that is down, which its managers can remove.

use crate::address;
use crate::failure::Failure;
use crate::identity::Identity;
use crate::init::availability;
use crate::leave;
use crate::member::{self, Member};
use crate::node::{Node, Phase};
use crate::reach;
use crate::roles;
use crate::state::{NodeFile, Stage};
use skep_identity::ca::NodeKey;
use skep_identity::tls::connect::PinError;
use skep_identity::tls::{PinnedRoot, RootFetch};
use skep_identity::token::JoinToken;
use skep_model::node::{Availability, Role};
use skep_model::{ClusterId, NodeId, Refusal};
use skep_proto::v1::ca_client::CaClient;
use skep_proto::v1::control_server::Control as _;
use skep_proto::v1::read_request::Query;
use skep_proto::v1::{
    ClusterInfoQuery, Confidential, GetRootRequest, IssueReply, IssueRequest, JoinReply, JoinRequest, ReadRequest,
};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// How long a join may take in all, as in Swarm.
const JOIN_MAX: Duration = Duration::from_secs(20);
/// Between two rounds over the managers, while one says "not now".
const AGAIN: Duration = Duration::from_millis(200);
/// How long a new manager may take to have the cluster's state.
const CATCH_UP_MAX: Duration = Duration::from_secs(10);
/// Managers that may be named.
const REMOTES_MAX: usize = 32;

/// What is to be joined, and how.
struct Plan {
    remotes: Vec<String>,
    token: JoinToken,
    availability: Availability,
    listen: SocketAddr,
    advertise: String,
    data_path: Option<IpAddr>,
}

/// Joins a cluster.
///
/// # Errors
/// If the request is refused, no manager admits this node, or a step fails;
/// nothing has changed on this node then.
pub async fn join(node: &Arc<Node>, request: JoinRequest) -> Result<JoinReply, Failure> {
    let plan = plan(request)?;
    let mut phase = node.phase().await;
    phase.must_be_inactive()?;
    node.publish_pending();
    let joined = match tokio::time::timeout(JOIN_MAX, admit(node, &plan)).await {
        Ok(Ok(admitted)) => {
            let id = admitted.file.node;
            put_away(node, admitted).await.map_err(|cause| Failure::Noted { node: id, cause: Box::new(cause) })
        }
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(Failure::Late {
            what: "joining the cluster",
            limit: JOIN_MAX,
            last: format!("; asked: {}", plan.remotes.join(", ")),
        }),
    };
    let reply = match joined {
        Ok(member) => {
            roles::keep(node, &member);
            let reply = JoinReply {
                node_id: member.file.node.to_string(),
                role: skep_proto::v1::Role::from(member.identity.node().role).into(),
            };
            *phase = Phase::Active(Box::new(member));
            Ok(reply)
        }
        Err(failure) => {
            if let Err(left) = leave::forget(&node.settings.data, &node.settings.run) {
                tracing::error!("cannot undo a join: {}", left.line());
            }
            Err(failure)
        }
    };
    node.publish(&phase);
    reply
}

fn plan(request: JoinRequest) -> Result<Plan, Failure> {
    if request.remote_addrs.is_empty() || request.remote_addrs.len() > REMOTES_MAX {
        let reason = format!("name 1 to {REMOTES_MAX} managers");
        return Err(Refusal::invalid("remote address", "", reason).into());
    }
    let remotes = request.remote_addrs.iter().map(|given| address::remote(given)).collect::<Result<_, _>>()?;
    let token = request.token.as_ref().and_then(|token| token.text().ok()).unwrap_or_default();
    let token = JoinToken::parse(token).map_err(|error| {
        let text = error.to_string();
        Refusal::invalid("join token", "", text.strip_prefix("invalid join token: ").unwrap_or(&text))
    })?;
    let interfaces = address::interfaces()?;
    let listen = address::listen(&request.listen_addr, &interfaces)?;
    if !request.advertise_addr.is_empty() {
        // Found wrong before anything else is done.
        address::advertise(&request.advertise_addr, listen, &interfaces)?;
    }
    let data_path = address::data_path(&request.data_path_addr, &interfaces)?;
    let availability = availability(request.availability)?;
    Ok(Plan { remotes, token, availability, listen, advertise: request.advertise_addr, data_path })
}

/// What a manager admitted this node with.
struct Admitted {
    key: NodeKey,
    reply: IssueReply,
    file: NodeFile,
}

/// Asks one manager after the other. A refusal that all would repeat ends it, and
/// so does that none can be reached; while one answers "not now", all are asked
/// again. The caller has the deadline.
async fn admit(node: &Node, plan: &Plan) -> Result<Admitted, Failure> {
    let key = NodeKey::generate()?;
    // The same to every manager, however often: whoever heard of it before answers again.
    let request = IssueRequest {
        csr: reach::signing_request(&key)?,
        token: Some(Confidential::new(plan.token.reveal().as_bytes())),
        availability: Some(skep_proto::v1::Availability::from(plan.availability).into()),
        hostname: node.settings.hostname.clone(),
        request_id: reach::request_id(),
        ..IssueRequest::default()
    };
    loop {
        let (mut first, mut has_answer) = (None, false);
        for remote in &plan.remotes {
            match admit_by(plan, &request, remote).await {
                Err(failure) if failure.may_pass() => {
                    tracing::warn!(%remote, "could not join: {}", failure.line());
                    has_answer |= matches!(failure, Failure::Answered(_));
                    first.get_or_insert(failure);
                }
                answer => return answer.map(|(reply, file)| Admitted { key, reply, file }),
            }
        }
        if !has_answer {
            return Err(first.expect("at least one manager was named"));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn admit_by(plan: &Plan, request: &IssueRequest, remote: &str) -> Result<(IssueReply, NodeFile), Failure> {
    let at = remote_address(remote).await?;
    let advertise = advertised(plan, at)?;
    address::check_joining(plan.data_path, advertise.ip(), at.ip())?;
    let unreachable = |source| Failure::Unreachable { address: remote.to_owned(), source };
    let channel = RootFetch::connect(remote).await.map_err(unreachable)?.channel();
    let root = CaClient::new(channel).get_root(GetRootRequest {}).await.map_err(Failure::Answered)?.into_inner();
    let root = PinnedRoot::check(root.root_ca.as_bytes(), &plan.token).map_err(|error| match error {
        PinError::Refused(refusal) => Failure::Identity(refusal),
        PinError::Tls(error) => Failure::Tls(error),
    })?;
    let connector = match (at.ip().is_loopback(), advertise.ip().is_loopback()) {
        // Every address there is this machine's: the connection shows which one is meant.
        (true, true) if at.is_ipv4() == advertise.is_ipv4() => root.connector().bound_to(advertise.ip()),
        _ => root.connector(),
    };
    let channel = connector.connect(&at.to_string()).await.map_err(unreachable)?;
    let claimed = IssueRequest {
        advertise_address: advertise.ip().to_string(),
        data_path_address: plan.data_path.map(|address| address.to_string()).unwrap_or_default(),
        ..request.clone()
    };
    let reply = CaClient::new(channel).issue(claimed).await.map_err(Failure::Answered)?.into_inner();
    let senseless = |what| Failure::Senseless { address: remote.to_owned(), what };
    let id: NodeId = reply.node_id.parse().map_err(|_| senseless("node id"))?;
    let cluster: ClusterId = reply.cluster_id.parse().map_err(|_| senseless("cluster id"))?;
    let mut file = NodeFile::new(Stage::Joining, id, cluster, advertise, plan.listen);
    file.managers.clone_from(&reply.manager_addresses);
    file.data_path = plan.data_path;
    if !file.managers.iter().any(|manager| manager == remote) {
        file.managers.push(remote.to_owned());
    }
    Ok((reply, file))
}

async fn remote_address(remote: &str) -> Result<SocketAddr, Failure> {
    let unknown = |source| Failure::Unresolved { address: remote.to_owned(), source };
    let mut found = tokio::net::lookup_host(remote).await.map_err(unknown)?;
    found.next().ok_or_else(|| unknown(std::io::Error::other("the name has no address")))
}

/// Without a choice of the user's: the address from which that manager is reached.
fn advertised(plan: &Plan, remote: SocketAddr) -> Result<SocketAddr, Failure> {
    if plan.advertise.is_empty()
        && plan.listen.ip().is_unspecified()
        && let Some(address) = address::toward(remote)
    {
        return Ok(SocketAddr::new(address, plan.listen.port()));
    }
    Ok(address::advertise(&plan.advertise, plan.listen, &address::interfaces()?)?)
}

async fn put_away(node: &Arc<Node>, admitted: Admitted) -> Result<Member, Failure> {
    let data = &node.settings.data;
    let Admitted { key, reply, file } = admitted;
    file.save(data)?;
    let identity = Identity::create(data, reach::issued(key, &reply), None, None)?;
    let is_manager = identity.node().role == Role::Manager;
    let agent = member::start_agent(node, &file, identity.tls().clone(), &file.managers).await?;
    let mut member = Member::of(file, identity, agent);
    match finish(node, &mut member, is_manager).await {
        Ok(()) => Ok(member),
        Err(failure) => {
            member.stop().await;
            Err(failure)
        }
    }
}

async fn finish(node: &Arc<Node>, member: &mut Member, is_manager: bool) -> Result<(), Failure> {
    if is_manager {
        member::can_listen(member.file.listen).await?;
        let started = member.start_manager(node, None).await;
        match started {
            Err(failure) if member.file.raft_id.is_none() => return Err(failure),
            // With its place in raft it counts as a manager: undoing would cost the others more.
            Err(failure) => member.trouble(&failure),
            Ok(()) => catch_up(member).await,
        }
    }
    member.file.stage = Stage::Member;
    Ok(member.file.save(&node.settings.data)?)
}

/// Waits until the new manager can answer for the cluster; not for ever, because
/// it is one in any case.
async fn catch_up(member: &Member) {
    let Some(manager) = &member.manager else { return };
    let (mut leadership, control) = (manager.leadership(), manager.control());
    let caught_up = async {
        let has_leader = leadership.wait_for(|now| now.leader.is_some()).await.is_ok();
        let query = Some(Query::ClusterInfo(ClusterInfoQuery {}));
        has_leader && control.read(tonic::Request::new(ReadRequest { query, stale: false })).await.is_ok()
    };
    if !tokio::time::timeout(CATCH_UP_MAX, caught_up).await.unwrap_or(false) {
        tracing::warn!("this manager has not caught up with the others yet");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_requests_are_refused_before_anyone_is_asked() {
        let token =
            || Some(Confidential::new(JoinToken::generate(skep_identity::token::RootDigest::of(b"x")).reveal().as_bytes()));
        let good = || JoinRequest { remote_addrs: vec!["10.0.0.1".into()], token: token(), ..Default::default() };
        let table = [
            (good(), None),
            (JoinRequest { remote_addrs: vec![], ..good() }, Some("name 1 to 32")),
            (JoinRequest { remote_addrs: vec!["a/b".into()], ..good() }, Some("HOST:PORT")),
            (JoinRequest { token: None, ..good() }, Some("join token")),
            (JoinRequest { token: Some(Confidential::new(*b"SWMTKN-1-x")), ..good() }, Some("expected SWMTKN-1-")),
            (JoinRequest { advertise_addr: "0.0.0.0".into(), ..good() }, Some("--advertise-addr")),
            (JoinRequest { listen_addr: "nowhere".into(), ..good() }, Some("--listen-addr")),
            (JoinRequest { data_path_addr: "no-link".into(), ..good() }, Some("--data-path-addr")),
            (JoinRequest { availability: 9, ..good() }, Some("--availability")),
        ];
        for (request, expected) in table {
            match (plan(request), expected) {
                (Ok(_), None) => {}
                (Err(failure), Some(expected)) => assert!(failure.line().contains(expected), "{}", failure.line()),
                (found, _) => panic!("{expected:?}: {:?}", found.err()),
            }
        }
    }
}
