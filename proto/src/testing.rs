//! Any value of the model, for property tests.
//!
//! A value is drawn from a list of numbers that proptest makes and shrinks; when
//! they run out, zeros follow, so that a shrunk value is a small one. Values are
//! right in form and mostly senseless.

pub mod edges;

use ipnet::IpNet;
use proptest::prelude::*;
use skep_model::assignment::{Hello, SessionInfo, StatusUpdate};
use skep_model::cluster::{Cluster, ClusterPlan, ClusterSpec, SealingSlot};
use skep_model::config::{Config, ConfigSpec, ConfigVersion};
use skep_model::container::{
    ConfigReference, ContainerSpec, DnsConfig, FileTarget, HealthConfig, HostEntry, Mount, MountKind, SecretReference, Ulimit,
};
use skep_model::deployment::{Deployment, DeploymentKind, DeploymentState, FailedTask};
use skep_model::endpoint::{
    Addresses, EndpointMode, EndpointSpec, EndpointState, NodeIngress, Publication, PublishMode, PublishedPort, ServiceEndpoint,
    Transport,
};
use skep_model::network::{Attachment, Network, NetworkPlan, NetworkRequest, NetworkSpec, Pool};
use skep_model::node::{
    Availability, ManagerStatus, Node, NodeDescription, NodePlan, NodeSpec, NodeState, NodeStatus, Role, Underlay,
};
use skep_model::overlay::{Endpoint, EndpointId, LocalTask, NodeNetwork, NodeService, OverlayChange, Peer, ServiceNetwork};
use skep_model::place::{Place, PlaceFault, PlaceFaults};
use skep_model::request::Outcome;
use skep_model::resources::{Limits, ResourceRequirements, Resources};
use skep_model::sealed::Sealed;
use skep_model::secret::{Secret, SecretSpec, SecretVersion};
use skep_model::service::{
    Annotations, FailureAction, NetworkMode, Placement, Platform, RestartCondition, RestartPolicy, Service, ServiceDeployment,
    ServiceMode, ServicePlan, ServiceRecord, ServiceSpec, TaskSpec, UpdateConfig, UpdateOrder,
};
use skep_model::task::{ContainerStatus, Task, TaskPlan, TaskStatus};
use skep_model::{ClusterId, ConfigId, Id, NetworkId, NodeId, Refusal, RequestId, SecretId, Section, ServiceId, TaskId, Time};
use skep_model::{Kind, Meta, Object, ObjectRef, TaskState};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The numbers that a value is drawn from.
#[derive(Debug)]
pub struct Source {
    numbers: std::vec::IntoIter<u64>,
}

impl Source {
    /// The next number; 0 when there are none left.
    pub fn number(&mut self) -> u64 {
        self.numbers.next().unwrap_or(0)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }
}

/// A type whose values can be drawn.
pub trait Draw: Sized {
    /// The value that the next numbers stand for.
    fn draw(source: &mut Source) -> Self;
}

/// Any value of a type.
pub fn any_value<T: Draw + Debug>() -> impl Strategy<Value = T> {
    proptest::collection::vec(any::<u64>(), 0..1200).prop_map(|numbers| T::draw(&mut Source { numbers: numbers.into_iter() }))
}

macro_rules! numbers {
    ($($kind:ty),*) => {$(
        impl Draw for $kind {
            fn draw(source: &mut Source) -> Self {
                // Small and extreme values matter as much as any.
                match source.below(4) {
                    0 => source.below(16) as $kind,
                    1 => <$kind>::MAX - source.below(2) as $kind,
                    2 => <$kind>::MIN + source.below(2) as $kind,
                    _ => source.number() as $kind,
                }
            }
        }
    )*};
}

numbers!(u8, u16, u32, u64, i32, i64, usize);

impl Draw for bool {
    fn draw(source: &mut Source) -> Self {
        source.below(2) == 1
    }
}

/// Shares from 0 to 1.
impl Draw for f32 {
    fn draw(source: &mut Source) -> Self {
        source.below(1025) as f32 / 1024.0
    }
}

impl Draw for Time {
    fn draw(source: &mut Source) -> Self {
        Self(Draw::draw(source))
    }
}

impl Draw for Duration {
    fn draw(source: &mut Source) -> Self {
        Self::from_nanos(Draw::draw(source))
    }
}

impl Draw for String {
    fn draw(source: &mut Source) -> Self {
        const WORDS: [&str; 8] = ["", "web", "a=b", "/run/x", "été", "{{.Node.ID}}", "\0\n\"", "10.0.0.1:2377"];
        (0..source.below(3)).map(|_| WORDS[source.below(8) as usize]).collect()
    }
}

macro_rules! ids {
    ($($kind:ident),*) => {$(
        impl Draw for $kind {
            fn draw(source: &mut Source) -> Self {
                Self::from_random(Draw::draw(source))
            }
        }
    )*};
}

ids!(Id, ClusterId, NodeId, ServiceId, TaskId, SecretId, ConfigId, NetworkId);

impl Draw for RequestId {
    fn draw(source: &mut Source) -> Self {
        Self(Draw::draw(source))
    }
}

impl<const N: usize> Draw for [u8; N] {
    fn draw(source: &mut Source) -> Self {
        let number = source.number().to_be_bytes();
        std::array::from_fn(|place| number[place % 8])
    }
}

impl<T: Draw> Draw for Option<T> {
    fn draw(source: &mut Source) -> Self {
        (source.below(2) == 1).then(|| T::draw(source))
    }
}

impl<T: Draw> Draw for Vec<T> {
    fn draw(source: &mut Source) -> Self {
        (0..source.below(4)).map(|_| T::draw(source)).collect()
    }
}

impl<K: Draw + Ord, V: Draw> Draw for BTreeMap<K, V> {
    fn draw(source: &mut Source) -> Self {
        (0..source.below(4)).map(|_| (K::draw(source), V::draw(source))).collect()
    }
}

impl<A: Draw, B: Draw> Draw for (A, B) {
    fn draw(source: &mut Source) -> Self {
        (A::draw(source), B::draw(source))
    }
}

impl<T: Draw> Draw for Box<T> {
    fn draw(source: &mut Source) -> Self {
        Box::new(T::draw(source))
    }
}

impl<T: Draw> Draw for Arc<T> {
    fn draw(source: &mut Source) -> Self {
        Arc::new(T::draw(source))
    }
}

impl<T: Draw> Draw for Section<T> {
    fn draw(source: &mut Source) -> Self {
        Self { version: Draw::draw(source), value: Draw::draw(source) }
    }
}

macro_rules! fields {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl Draw for $name {
            fn draw(source: &mut Source) -> Self {
                Self { $($field: Draw::draw(source)),* }
            }
        }
    };
}

macro_rules! variants {
    ($name:ident { $($variant:ident),* $(,)? }) => {
        impl Draw for $name {
            fn draw(source: &mut Source) -> Self {
                let all = [$(Self::$variant),*];
                all[source.below(all.len() as u64) as usize]
            }
        }
    };
}

variants!(Kind { Cluster, Node, Network, Secret, Config, Service, Task });
variants!(Role { Worker, Manager });
variants!(Availability { Active, Pause, Drain });
variants!(NodeState { Unknown, Down, Ready, Disconnected });
variants!(NetworkMode { None, Host, Bridge });
variants!(EndpointMode { Vip, Dnsrr });
variants!(Transport { Tcp, Udp });
variants!(PublishMode { Ingress, Host });
variants!(Publication { Unpublished, Published, Withdrawn });
variants!(RestartCondition { None, OnFailure, Any });
variants!(FailureAction { Pause, Continue, Rollback });
variants!(UpdateOrder { StopFirst, StartFirst });
variants!(DeploymentKind { Create, Update, Rollback, AutomaticRollback });
variants!(DeploymentState { Progressing, Converged, Failed, Paused, RolledBack, DeadlineExceeded });
variants!(MountKind { Bind, Tmpfs });
variants!(TaskState {
    New,
    Pending,
    Assigned,
    Accepted,
    Preparing,
    Ready,
    Starting,
    Running,
    Complete,
    Shutdown,
    Failed,
    Rejected,
    Remove,
    Orphaned,
});
fields!(ObjectRef { kind, id });
fields!(Meta { created_at, updated_at, version, made_at });
fields!(Annotations { name, labels });
fields!(Sealed { key_generation, nonce, bytes });
fields!(Outcome { id, version, number });
fields!(Cluster { id, meta, spec, plan });
fields!(ClusterSpec {
    annotations,
    task_history_limit,
    heartbeat_period,
    node_cert_expiry,
    snapshot_interval,
    max_snapshots,
    autolock,
    address_pools,
    subnet_size,
    data_path_port,
    barrier_timeout,
    isolate_nodes,
});
fields!(ClusterPlan {
    root_ca,
    sealed_ca_key,
    sealed_worker_token,
    sealed_manager_token,
    sealed_fingerprint_key,
    sealing_slots,
    sealing_generation,
    format,
    removed_nodes,
    removed_raft_ids,
    sealed_unlock_key,
});
fields!(SealingSlot { generation, bytes });
fields!(Node { id, meta, spec, description, status, plan });
fields!(NodeSpec { labels, desired_role, availability, hostname });
fields!(NodeDescription { hostname, platform, resources, engine_version, engine_labels, underlay });
fields!(Underlay { address, occupied, lacks_ipv6 });
fields!(NodeStatus { state, message, address, since, faults, since_wall });

impl Draw for Place {
    fn draw(source: &mut Source) -> Self {
        match source.below(5) {
            0 => Self::Node,
            1 => Self::Network(Draw::draw(source)),
            2 => Self::Service(Draw::draw(source)),
            3 => Self::Port(Draw::draw(source), Draw::draw(source)),
            _ => Self::Task(Draw::draw(source)),
        }
    }
}

fields!(PlaceFault { place, reason, blocks });

impl Draw for PlaceFaults {
    fn draw(source: &mut Source) -> Self {
        let faults = Self::new(Vec::draw(source));
        Self { n_more: u64::from(u16::draw(source)), ..faults }
    }
}

fields!(NodePlan { role, manager, unsealing_key, certificate_expires, ingress });
fields!(NodeIngress { number, addresses });
fields!(ManagerStatus { raft_id, address, format_max, unreachable });
fields!(Network { id, meta, spec, plan });
fields!(NetworkSpec { annotations, driver, internal, attachable, ingress, ipv6, pools, options });
fields!(NetworkPlan { vni, pools });
fields!(Pool { subnet, range, gateway });
fields!(NetworkRequest { target, aliases, any_source });
fields!(Attachment { network, addresses, aliases, any_source });
fields!(Secret { id, meta, spec });
fields!(SecretSpec { annotations, versions, current });
fields!(SecretVersion { n, sealed, fingerprint, created_at });
fields!(Config { id, meta, spec });
fields!(ConfigSpec { annotations, versions, current });
fields!(ConfigVersion { n, sealed, fingerprint, created_at });
fields!(Service { id, meta, spec, plan });
fields!(ServiceRecord { spec, previous, spec_version });
fields!(ServiceSpec { annotations, task_template, mode, update_config, rollback_config, deadline, endpoint_spec });
fields!(TaskSpec { container_spec, resources, restart_policy, placement, network, networks, force_update, start_offline });
fields!(RestartPolicy { condition, delay, max_attempts, window });
fields!(Placement { constraints, spread, max_replicas, platforms });
fields!(Platform { architecture, os });
fields!(UpdateConfig { parallelism, delay, failure_action, monitor, max_failure_ratio, order });
fields!(ServicePlan { deployment, removed_at, endpoint });
fields!(ServiceDeployment { deployment, ports });
fields!(PublishedPort { transport, target_port, published_port, publish_mode });
fields!(EndpointSpec { mode, ports });
fields!(ServiceEndpoint { virtual_addresses, ports });
fields!(Addresses { addresses });
fields!(EndpointState { publication, since });
fields!(Peer { node, address, ingress });
fields!(NodeNetwork { id, name, vni, pools, mtu, internal, ingress });
fields!(NodeService { id, name, networks, ingress_ports });
fields!(ServiceNetwork { network, virtual_addresses, aliases });
fields!(EndpointId { network, task });
fields!(Endpoint { id, service, node, addresses, names, is_published });
fields!(LocalTask { id, service, attachments, has_gateway, host_ports, hostname, dns });
fields!(Deployment {
    spec_version,
    kind,
    state,
    cause,
    failed_task,
    started_at,
    progressed_at,
    ended_at,
    failures,
    next_step_at,
    wanted,
    running,
    stragglers,
    completed,
    slots,
    lost_nodes,
    started_wall,
});
fields!(FailedTask { task, node, error, log_tail });
fields!(Resources { nano_cpus, memory_bytes });
fields!(Limits { nano_cpus, memory_bytes, pids });
fields!(ResourceRequirements { limits, reservations });
fields!(ContainerSpec {
    image,
    labels,
    command,
    args,
    hostname,
    env,
    dir,
    user,
    groups,
    init,
    read_only,
    mounts,
    stop_signal,
    stop_grace_period,
    stop_drain,
    healthcheck,
    hosts,
    dns,
    secrets,
    configs,
    capability_add,
    capability_drop,
    sysctls,
    ulimits,
    oom_score_adj,
    no_new_privileges,
});
fields!(Mount { kind, source, target, read_only, tmpfs_size, tmpfs_mode, propagation, create_source });
fields!(HealthConfig { test, interval, timeout, start_period, start_interval, retries });
fields!(HostEntry { address, name });
fields!(DnsConfig { nameservers, search, options });
fields!(Ulimit { name, soft, hard });
fields!(FileTarget { name, uid, gid, mode });
fields!(SecretReference { id, name, version, file });
fields!(ConfigReference { id, name, version, file });
fields!(Task { id, meta, service_id, service_name, service_labels, slot, spec, spec_version, networks, ports, plan, status });
fields!(TaskPlan { desired, node, start_at, replaces, is_restart, desired_since, endpoint, is_retry, takes_over });
fields!(TaskStatus {
    state,
    timestamp,
    applied_at,
    message,
    error,
    attempt,
    container,
    log_tail,
    running_since,
    ports,
    is_healthy,
    is_evicted,
});
fields!(ContainerStatus { container_id, pid, exit_code });
fields!(StatusUpdate { task, status });
fields!(Hello { node, description, statuses, address, certificate_expires, not_ready });
fields!(SessionInfo {
    term,
    heartbeat_period,
    managers,
    role,
    root_ca,
    node_name,
    data_path_port,
    barrier_timeout,
    isolate_nodes
});

impl Draw for IpAddr {
    fn draw(source: &mut Source) -> Self {
        if Draw::draw(source) { Self::from(<[u8; 16]>::draw(source)) } else { Self::from(<[u8; 4]>::draw(source)) }
    }
}

impl Draw for IpNet {
    fn draw(source: &mut Source) -> Self {
        let address = IpAddr::draw(source);
        let longest = if address.is_ipv4() { 32 } else { 128 };
        Self::new(address, source.below(longest + 1) as u8).expect("the prefix fits the family")
    }
}

impl Draw for OverlayChange {
    fn draw(source: &mut Source) -> Self {
        match source.below(8) {
            0 => Self::PutPeer(Draw::draw(source)),
            1 => Self::PutNetwork(Draw::draw(source)),
            2 => Self::PutService(Draw::draw(source)),
            3 => Self::PutEndpoint(Draw::draw(source)),
            4 => Self::RemoveEndpoint(Draw::draw(source)),
            5 => Self::RemoveService(Draw::draw(source)),
            6 => Self::RemoveNetwork(Draw::draw(source)),
            _ => Self::RemovePeer(Draw::draw(source)),
        }
    }
}

impl Draw for ServiceMode {
    fn draw(source: &mut Source) -> Self {
        if Draw::draw(source) { Self::Global {} } else { Self::Replicated { replicas: Draw::draw(source) } }
    }
}

impl Draw for Object {
    fn draw(source: &mut Source) -> Self {
        match Kind::draw(source) {
            Kind::Cluster => Self::Cluster(Draw::draw(source)),
            Kind::Node => Self::Node(Draw::draw(source)),
            Kind::Network => Self::Network(Draw::draw(source)),
            Kind::Secret => Self::Secret(Draw::draw(source)),
            Kind::Config => Self::Config(Draw::draw(source)),
            Kind::Service => Self::Service(Draw::draw(source)),
            Kind::Task => Self::Task(Draw::draw(source)),
        }
    }
}

impl Draw for Refusal {
    fn draw(source: &mut Source) -> Self {
        let (kind, text) = (Kind::draw(source), String::draw(source));
        match source.below(15) {
            0 => Self::NotFound { kind, reference: text },
            1 => Self::Ambiguous { kind, reference: text, matches: Draw::draw(source), ids: Draw::draw(source) },
            2 => Self::NameConflict { kind, name: text },
            3 => Self::InUse { kind, name: text, by: Draw::draw(source) },
            4 => Self::Invalid { field: text, value: Draw::draw(source), reason: Draw::draw(source) },
            5 => Self::OutOfSequence,
            6 => Self::FailedPrecondition(text),
            7 => Self::Unsupported { what: text },
            8 => Self::TooLarge { what: text, limit: Draw::draw(source) },
            9 => Self::Exhausted(text),
            10 => Self::PermissionDenied(text),
            11 => Self::NotLeader { leader: Draw::draw(source), address: Draw::draw(source) },
            12 => Self::Unavailable(text),
            13 => Self::NoQuorum(text),
            _ => Self::Aborted,
        }
    }
}
