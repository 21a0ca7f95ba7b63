//! `swarm init`: this node founds a cluster and is its first manager.
//!
//! On disk first: the place (stage *founding*), the keystore, the log; only when
//! the first entry is committed the place says *member*, and only then anyone is
//! told. Whatever fails or crashes before that is undone.

use crate::address;
use crate::failure::Failure;
use crate::identity::{Identity, Issued, ManagerKeys};
use crate::leave;
use crate::member::{self, Member};
use crate::node::{Node, Phase};
use crate::roles;
use crate::state::{NodeFile, Stage};
use ipnet::IpNet;
use skep_host::chance;
use skep_identity::ca::NodeKey;
use skep_identity::certificate::NodeIdentity;
use skep_identity::keystore::UnlockKey;
use skep_manager::{Founding, Manager, NewCluster};
use skep_model::cluster::ClusterSpec;
use skep_model::network::check_address_pool;
use skep_model::node::{Availability, ManagerStatus, Node as NodeObject, NodePlan, NodeSpec, NodeStatus, Role};
use skep_model::version::FORMAT_MAX;
use skep_model::{ClusterId, Meta, NodeId, Refusal, Section};
use skep_proto::v1::{Confidential, InitReply, InitRequest};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// The raft id of a cluster's first manager.
const FIRST_RAFT_ID: u64 = 1;
/// Founds a cluster.
///
/// # Errors
/// If the request is refused, or a step fails; nothing has changed then.
pub async fn init(node: &Arc<Node>, request: InitRequest) -> Result<InitReply, Failure> {
    let spec = settings(&request)?;
    let availability = availability(request.availability)?;
    let mut phase = node.phase().await;
    phase.must_be_inactive()?;
    let interfaces = address::interfaces()?;
    let listen = address::listen(&request.listen_addr, &interfaces)?;
    let advertise = address::advertise(&request.advertise_addr, listen, &interfaces)?;
    address::check_founding(advertise.ip(), listen.ip(), &interfaces)?;
    let data_path = address::data_path(&request.data_path_addr, &interfaces)?;
    node.publish_pending();
    let founded = found(node, spec, availability, (advertise, listen, data_path)).await;
    let reply = match founded {
        Ok((member, reply)) => {
            roles::keep(node, &member);
            *phase = Phase::Active(Box::new(member));
            Ok(reply)
        }
        Err(failure) => {
            if let Err(left) = leave::forget(&node.settings.data, &node.settings.run) {
                tracing::error!("cannot undo the founding of a cluster: {}", left.line());
            }
            Err(failure)
        }
    };
    node.publish(&phase);
    reply
}

/// The cluster's settings; what is not built is refused by its flag.
fn settings(request: &InitRequest) -> Result<ClusterSpec, Refusal> {
    let unsupported = |what: &str| Err(Refusal::Unsupported { what: what.into() });
    if request.force_new_cluster {
        return unsupported("--force-new-cluster");
    }
    let default = ClusterSpec::default();
    let (address_pools, subnet_size) = pools(request, &default)?;
    let spec = ClusterSpec {
        task_history_limit: request.task_history_limit.unwrap_or(default.task_history_limit),
        heartbeat_period: request.heartbeat_period.map_or(default.heartbeat_period, Duration::from_nanos),
        node_cert_expiry: request.cert_expiry.map_or(default.node_cert_expiry, Duration::from_nanos),
        snapshot_interval: request.snapshot_interval.unwrap_or(default.snapshot_interval),
        max_snapshots: request.max_snapshots.unwrap_or(default.max_snapshots),
        autolock: request.autolock,
        address_pools,
        subnet_size,
        data_path_port: data_path_port(request.data_path_port)?.unwrap_or(default.data_path_port),
        barrier_timeout: request.barrier_timeout.map_or(default.barrier_timeout, Duration::from_nanos),
        ..default
    };
    spec.check()?;
    Ok(spec)
}

/// `None` if none was given; whether it may be one is checked with all settings.
fn data_path_port(given: u32) -> Result<Option<u16>, Refusal> {
    let wide = |_| Refusal::invalid("--data-path-port", given.to_string(), "a port is a number up to 65535");
    Ok(Some(u16::try_from(given).map_err(wide)?).filter(|port| *port != 0))
}

/// Where subnets are taken from, and how long their prefix is.
fn pools(request: &InitRequest, default: &ClusterSpec) -> Result<(Vec<IpNet>, u32), Refusal> {
    let flag = "--default-addr-pool";
    let mut pools = Vec::<IpNet>::new();
    for given in &request.default_addr_pool {
        let pool: IpNet = given.parse().map_err(|_| Refusal::invalid(flag, given, "it must be a subnet such as 10.0.0.0/8"))?;
        let pool = pool.trunc();
        check_address_pool(pool).map_err(|invalid| Refusal::invalid(flag, given, invalid.reason))?;
        if let Some(other) = pools.iter().find(|other| other.contains(&pool) || pool.contains(*other)) {
            return Err(Refusal::invalid(flag, given, format!("it overlaps {other}")));
        }
        pools.push(pool);
    }
    if pools.is_empty() {
        pools.clone_from(&default.address_pools);
    }
    // Every network has a subnet of IPv4, the ingress network that a cluster begins with included.
    if !pools.iter().any(|pool| pool.addr().is_ipv4()) {
        let given = request.default_addr_pool.join(",");
        return Err(Refusal::invalid(flag, given, "one pool must be of IPv4: add one such as 10.0.0.0/8"));
    }
    let size = match request.default_addr_pool_mask_length {
        0 => default.subnet_size,
        size => size,
    };
    let is_smaller = |pool: &&IpNet| pool.addr().is_ipv4() && u32::from(pool.prefix_len()) > size;
    let flag = "--default-addr-pool-mask-length";
    if let Some(pool) = pools.iter().find(is_smaller) {
        return Err(Refusal::invalid(flag, size.to_string(), format!("the pool {pool} is smaller than such a subnet")));
    }
    Ok((pools, size))
}

/// An availability of a request; unspecified is active.
///
/// # Errors
/// If it is none.
pub fn availability(wire: i32) -> Result<Availability, Refusal> {
    use skep_proto::v1::Availability as Wire;
    match Wire::try_from(wire) {
        Ok(Wire::Unspecified | Wire::Active) => Ok(Availability::Active),
        Ok(Wire::Pause) => Ok(Availability::Pause),
        Ok(Wire::Drain) => Ok(Availability::Drain),
        Err(_) => Err(Refusal::invalid("--availability", wire.to_string(), "it is active, pause or drain")),
    }
}

async fn found(
    node: &Arc<Node>,
    spec: ClusterSpec,
    availability: Availability,
    (advertise, listen, data_path): (SocketAddr, SocketAddr, Option<IpAddr>),
) -> Result<(Member, InitReply), Failure> {
    let data = &node.settings.data;
    // A port in use is found before anything is written.
    member::can_listen(listen).await?;
    let (id, cluster) = (NodeId::from_random(chance::bytes()), ClusterId::from_random(chance::bytes()));
    let (key, keys) = (NodeKey::generate()?, ManagerKeys::generate());
    let kek = spec.autolock.then(UnlockKey::generate);
    let new = skep_manager::found(id, &keys.unsealing, cluster, spec, &key.signing_request()?)?;
    let mut file = NodeFile::new(Stage::Founding, id, cluster, advertise, listen);
    file.raft_id = Some(FIRST_RAFT_ID);
    file.data_path = data_path;
    file.save(data)?;
    let roots = new.cluster.plan.root_ca.clone();
    let object = first_node(node, &file, &new, &keys, availability)?;
    let unlock_key = kek.as_ref().map(|kek| Confidential::new(kek.reveal().as_bytes()));
    let identity = Identity::create(data, Issued { key, chain: new.certificate, roots }, Some(keys), kek)?;
    let founding = Founding { cluster: Box::new(new.cluster), node: Box::new(object) };
    let mut founded = Founded::start(node, file, identity, founding).await?;
    match founded.finish(node).await {
        Ok((worker, manager)) => {
            let reply = InitReply {
                node_id: id.to_string(),
                worker_token: Some(Confidential::new(worker.as_bytes())),
                manager_token: Some(Confidential::new(manager.as_bytes())),
                unlock_key,
                address: advertise.to_string(),
                cluster_id: cluster.to_string(),
            };
            Ok((founded.0, reply))
        }
        Err(failure) => {
            founded.0.stop().await;
            Err(failure)
        }
    }
}

/// A member whose cluster nobody has been told of.
struct Founded(Member);

impl Founded {
    async fn start(node: &Arc<Node>, file: NodeFile, identity: Identity, founding: Founding) -> Result<Self, Failure> {
        let own = [file.advertise.to_string()];
        let agent = member::start_agent(node, &file, identity.tls().clone(), &own).await?;
        let mut member = Member::of(file, identity, agent);
        match member.start_manager(node, Some(founding)).await {
            Ok(()) => Ok(Self(member)),
            Err(failure) => {
                member.stop().await;
                Err(failure)
            }
        }
    }

    /// The tokens; from here on the cluster exists.
    async fn finish(&mut self, node: &Node) -> Result<(Zeroizing<String>, Zeroizing<String>), Failure> {
        let manager: &Manager = self.0.manager.as_ref().expect("a founded member has a manager");
        let tokens = manager.join_tokens().await?;
        self.0.file.stage = Stage::Member;
        self.0.file.save(&node.settings.data)?;
        Ok(tokens)
    }
}

fn first_node(
    node: &Node,
    file: &NodeFile,
    new: &NewCluster,
    keys: &ManagerKeys,
    availability: Availability,
) -> Result<NodeObject, Failure> {
    let certificate = NodeIdentity::from_pem(new.certificate.as_bytes())?;
    Ok(NodeObject {
        id: file.node,
        meta: Meta::default(),
        spec: Section::new(NodeSpec { desired_role: Role::Manager, availability, ..NodeSpec::default() }),
        description: Section::new(member::description(node, Some(file))),
        status: Section::new(NodeStatus { address: file.advertise.ip().to_string(), ..NodeStatus::default() }),
        plan: Section::new(NodePlan {
            role: Role::Manager,
            manager: Some(ManagerStatus {
                raft_id: FIRST_RAFT_ID,
                address: file.advertise.to_string(),
                format_max: FORMAT_MAX,
                unreachable: false,
            }),
            unsealing_key: keys.unsealing.public().0.to_vec(),
            certificate_expires: certificate.not_after,
            ingress: None,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_built_or_out_of_bounds_is_refused_by_its_flag() {
        let hour = 3_600_000_000_000;
        let table: Vec<(InitRequest, Option<&str>)> = vec![
            (InitRequest::default(), None),
            (InitRequest { data_path_port: 4789, default_addr_pool_mask_length: 24, ..Default::default() }, None),
            (InitRequest { data_path_port: 4790, ..Default::default() }, None),
            (InitRequest { default_addr_pool: vec!["10.9.0.0/16".into(), "fd00::/48".into()], ..Default::default() }, None),
            (InitRequest { cert_expiry: Some(hour), ..Default::default() }, None),
            (InitRequest { cert_expiry: Some(hour - 1), ..Default::default() }, Some("--cert-expiry \"59m59.999999999s\"")),
            (InitRequest { heartbeat_period: Some(1), ..Default::default() }, Some("--dispatcher-heartbeat \"1ns\"")),
            (InitRequest { barrier_timeout: Some(0), ..Default::default() }, Some("--barrier-timeout \"0s\"")),
            (InitRequest { barrier_timeout: Some(hour), ..Default::default() }, Some("it must be between 100ms and 1m0s")),
            (InitRequest { barrier_timeout: Some(hour / 60), ..Default::default() }, None),
            (InitRequest { snapshot_interval: Some(0), ..Default::default() }, Some("--snapshot-interval \"0\"")),
            (InitRequest { force_new_cluster: true, ..Default::default() }, Some("--force-new-cluster")),
            (InitRequest { data_path_port: 1023, ..Default::default() }, Some("--data-path-port \"1023\"")),
            (InitRequest { data_path_port: 65_536, ..Default::default() }, Some("--data-path-port \"65536\"")),
            (InitRequest { default_addr_pool: vec!["10.0.0.0".into()], ..Default::default() }, Some("such as 10.0.0.0/8")),
            (
                InitRequest { default_addr_pool: vec!["fd00::/48".into(), "fd01::/48".into()], ..Default::default() },
                Some("\"fd00::/48,fd01::/48\": one pool must be of IPv4"),
            ),
            (
                InitRequest { default_addr_pool: vec!["10.0.0.0/8".into(), "10.1.0.0/16".into()], ..Default::default() },
                Some("overlaps 10.0.0.0/8"),
            ),
            (InitRequest { default_addr_pool: vec!["127.0.0.0/8".into()], ..Default::default() }, Some("loopback, link-local")),
            (InitRequest { default_addr_pool: vec!["0.0.0.0/0".into()], ..Default::default() }, Some("between 8 and 30")),
            (
                InitRequest { default_addr_pool: vec!["10.0.0.0/8".into(), "fd00::/65".into()], ..Default::default() },
                Some("between 1 and 64"),
            ),
            (
                InitRequest { default_addr_pool_mask_length: 30, ..Default::default() },
                Some("--default-addr-pool-mask-length \"30\""),
            ),
            (InitRequest { default_addr_pool: vec!["10.0.0.0/24".into()], ..Default::default() }, Some("10.0.0.0/24 is smaller")),
        ];
        for (request, flag) in table {
            match (settings(&request), flag) {
                (Ok(_), None) => {}
                (Err(refusal), Some(flag)) => assert!(refusal.to_string().contains(flag), "{refusal}"),
                (found, _) => panic!("{request:?}: {found:?}"),
            }
        }
        assert!(availability(9).is_err());
        assert_eq!(availability(0), Ok(Availability::Active));
    }
}
