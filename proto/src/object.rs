//! Stored objects, section by section.

use crate::wire::{Wire, border, choice, field, message, section};
use crate::{Malformed, v1};
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
use skep_model::{Kind, Meta, Object, ObjectRef, TaskState};

choice!(Kind { Cluster, Node, Network, Secret, Config, Service, Task });
message!(ObjectRef { kind, id });
message!(Meta { created_at, updated_at, version, made_at });
message!(Annotations { name, labels });
message!(Sealed { key_generation, nonce, bytes });
message!(Outcome { id, version, number });

message!(Cluster { id, meta, spec, plan });
section!(ClusterSpec, ClusterSpecSection);
section!(ClusterPlan, ClusterPlanSection);
message!(ClusterSpec {
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
message!(ClusterPlan {
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
message!(SealingSlot { generation, bytes });

impl Wire<v1::SealingSlots> for Vec<SealingSlot> {
    fn encode(&self) -> v1::SealingSlots {
        v1::SealingSlots { slots: Wire::encode(self) }
    }

    fn decode(wire: v1::SealingSlots) -> Result<Self, Malformed> {
        field("slots", wire.slots)
    }
}

message!(Node { id, meta, spec, description, status, plan });
section!(NodeSpec, NodeSpecSection);
section!(NodeDescription, NodeDescriptionSection);
section!(NodeStatus, NodeStatusSection);
section!(NodePlan, NodePlanSection);
choice!(Role { Worker, Manager });
choice!(Availability { Active, Pause, Drain });
choice!(NodeState { Unknown, Down, Ready, Disconnected });
message!(NodeSpec { labels, desired_role, availability, hostname });
message!(NodeDescription { hostname, platform, resources, engine_version, engine_labels, underlay });
message!(Underlay { address, occupied, lacks_ipv6 });
message!(NodeStatus { state, message, address, since, faults, since_wall });

/// What a node says of its places is cut to its limits, and a place that cannot be
/// read is one that is not named: it must not cost the node its session, nor a manager
/// its store. What was written before there were any has none.
impl Wire<Option<v1::PlaceFaults>> for PlaceFaults {
    fn encode(&self) -> Option<v1::PlaceFaults> {
        (!self.is_empty()).then(|| self.into())
    }

    fn decode(wire: Option<v1::PlaceFaults>) -> Result<Self, Malformed> {
        Ok(wire.map(Self::from).unwrap_or_default())
    }
}

impl From<&PlaceFaults> for v1::PlaceFaults {
    fn from(faults: &PlaceFaults) -> Self {
        Self { faults: faults.faults.iter().map(place_fault).collect(), n_more: faults.n_more }
    }
}

impl From<v1::PlaceFaults> for PlaceFaults {
    fn from(wire: v1::PlaceFaults) -> Self {
        let n_named = wire.faults.len();
        let read =
            |fault: v1::PlaceFault| Some(PlaceFault { place: place(fault.place?)?, reason: fault.reason, blocks: fault.blocks });
        let faults = Self::new(wire.faults.into_iter().filter_map(read));
        let n_cut = (n_named - faults.faults.len()) as u64;
        Self { n_more: wire.n_more.saturating_add(n_cut), ..faults }
    }
}

fn place_fault(fault: &PlaceFault) -> v1::PlaceFault {
    let place = match fault.place {
        Place::Node => v1::place_fault::Place::Node(v1::NodePlace {}),
        Place::Network(id) => v1::place_fault::Place::Network(id.encode()),
        Place::Service(id) => v1::place_fault::Place::Service(id.encode()),
        Place::Task(id) => v1::place_fault::Place::Task(id.encode()),
        Place::Port(transport, port) => {
            v1::place_fault::Place::Port(v1::PortPlace { transport: transport.encode(), port: port.into() })
        }
    };
    v1::PlaceFault { place: Some(place), reason: fault.reason.clone(), blocks: fault.blocks }
}

fn place(wire: v1::place_fault::Place) -> Option<Place> {
    Some(match wire {
        v1::place_fault::Place::Node(_) => Place::Node,
        v1::place_fault::Place::Network(id) => Place::Network(id.parse().ok()?),
        v1::place_fault::Place::Service(id) => Place::Service(id.parse().ok()?),
        v1::place_fault::Place::Task(id) => Place::Task(id.parse().ok()?),
        v1::place_fault::Place::Port(port) => Place::Port(Wire::decode(port.transport).ok()?, u16::try_from(port.port).ok()?),
    })
}

message!(NodePlan { role, manager, unsealing_key, certificate_expires, ingress });
message!(NodeIngress { number, addresses });
message!(ManagerStatus { raft_id, address, format_max, unreachable });

message!(Network { id, meta, spec, plan });
section!(NetworkSpec, NetworkSpecSection);
section!(NetworkPlan, NetworkPlanSection);
message!(NetworkSpec { annotations, driver, internal, attachable, ingress, ipv6, pools, options });
message!(NetworkPlan { vni, pools });
message!(Pool { subnet, range, gateway });
message!(NetworkRequest { target, aliases, any_source });
message!(Attachment { network, addresses, aliases, any_source });

message!(Secret { id, meta, spec });
section!(SecretSpec, SecretSpecSection);
message!(SecretSpec { annotations, versions, current });
message!(SecretVersion { n, sealed, fingerprint, created_at });
message!(Config { id, meta, spec });
section!(ConfigSpec, ConfigSpecSection);
message!(ConfigSpec { annotations, versions, current });
message!(ConfigVersion { n, sealed, fingerprint, created_at });

message!(Service { id, meta, spec, plan });
section!(ServiceRecord, ServiceRecordSection);
section!(ServicePlan, ServicePlanSection);
message!(ServiceRecord { spec, previous, spec_version });
message!(ServiceSpec { annotations, task_template, mode, update_config, rollback_config, deadline, endpoint_spec });
message!(TaskSpec { container_spec, resources, restart_policy, placement, network, networks, force_update, start_offline });
choice!(NetworkMode { None, Host, Bridge });
choice!(RestartCondition { None, OnFailure, Any });
message!(RestartPolicy { condition, delay, max_attempts, window });
message!(Placement { constraints, spread, max_replicas, platforms });
message!(Platform { architecture, os });
choice!(FailureAction { Pause, Continue, Rollback });
choice!(UpdateOrder { StopFirst, StartFirst });
message!(UpdateConfig { parallelism, delay, failure_action, monitor, max_failure_ratio, order });
message!(ServicePlan { deployment, removed_at, endpoint });
message!(ServiceDeployment { deployment, ports });
choice!(EndpointMode { Vip, Dnsrr });
choice!(Transport { Tcp, Udp });
choice!(PublishMode { Ingress, Host });
message!(PublishedPort { transport, target_port, published_port, publish_mode });
message!(EndpointSpec { mode, ports });
message!(ServiceEndpoint { virtual_addresses, ports });
message!(Addresses { addresses });
choice!(Publication { Unpublished, Published, Withdrawn });
message!(EndpointState { publication, since });
choice!(DeploymentKind { Create, Update, Rollback, AutomaticRollback });
choice!(DeploymentState { Progressing, Converged, Failed, Paused, RolledBack, DeadlineExceeded });
message!(Deployment {
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
message!(FailedTask { task, node, error, log_tail });

impl Wire<Option<v1::service_spec::Mode>> for ServiceMode {
    fn encode(&self) -> Option<v1::service_spec::Mode> {
        Some(match *self {
            Self::Replicated { replicas } => v1::service_spec::Mode::Replicated(v1::ReplicatedMode { replicas }),
            Self::Global {} => v1::service_spec::Mode::Global(v1::GlobalMode {}),
        })
    }

    fn decode(wire: Option<v1::service_spec::Mode>) -> Result<Self, Malformed> {
        match wire.ok_or_else(Malformed::missing)? {
            v1::service_spec::Mode::Replicated(mode) => Ok(Self::Replicated { replicas: mode.replicas }),
            v1::service_spec::Mode::Global(_) => Ok(Self::Global {}),
        }
    }
}

message!(Resources { nano_cpus, memory_bytes });
message!(Limits { nano_cpus, memory_bytes, pids });
message!(ResourceRequirements { limits, reservations });
message!(ContainerSpec {
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
choice!(MountKind { Bind, Tmpfs });
message!(Mount { kind, source, target, read_only, tmpfs_size, tmpfs_mode, propagation, create_source });
message!(HealthConfig { test, interval, timeout, start_period, start_interval, retries });
message!(HostEntry { address, name });
message!(DnsConfig { nameservers, search, options });
message!(Ulimit { name, soft, hard });
message!(FileTarget { name, uid, gid, mode });
message!(SecretReference { id, name, version, file });
message!(ConfigReference { id, name, version, file });

message!(Task { id, meta, service_id, service_name, service_labels, slot, spec, spec_version, networks, ports, plan, status });
section!(TaskPlan, TaskPlanSection);
section!(TaskStatus, TaskStatusSection);
message!(TaskPlan { desired, node, start_at, replaces, is_restart, desired_since, endpoint, is_retry, takes_over });
message!(TaskStatus {
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
message!(ContainerStatus { container_id, pid, exit_code });
choice!(TaskState {
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

impl Wire<v1::Object> for Object {
    fn encode(&self) -> v1::Object {
        use v1::object::Object as Any;
        let object = match self {
            Self::Cluster(object) => Any::Cluster(object.encode()),
            Self::Node(object) => Any::Node(object.encode()),
            Self::Network(object) => Any::Network(object.encode()),
            Self::Secret(object) => Any::Secret(object.encode()),
            Self::Config(object) => Any::Config(object.encode()),
            Self::Service(object) => Any::Service(object.encode()),
            Self::Task(object) => Any::Task(object.encode()),
        };
        v1::Object { object: Some(object) }
    }

    fn decode(wire: v1::Object) -> Result<Self, Malformed> {
        use v1::object::Object as Any;
        Ok(match wire.object.ok_or_else(Malformed::missing)? {
            Any::Cluster(object) => Self::Cluster(field("cluster", object)?),
            Any::Node(object) => Self::Node(field("node", object)?),
            Any::Network(object) => Self::Network(field("network", object)?),
            Any::Secret(object) => Self::Secret(field("secret", object)?),
            Any::Config(object) => Self::Config(field("config", object)?),
            Any::Service(object) => Self::Service(field("service", object)?),
            Any::Task(object) => Self::Task(field("task", object)?),
        })
    }
}

border!(Object, v1::Object);
