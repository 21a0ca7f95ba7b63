//! `skep info`: the daemon, its node, and the cluster it is in.

use crate::client::{self, CALL_MAX, Client};
use crate::failure::Failure;
use crate::flags::duration;
use crate::render::{ago, output, size, trust};
use serde_json::{Value, json};
use skep_docker::RaftConfig;
use skep_model::Time;
use skep_model::cluster::ClusterSpec;
use skep_proto::v1::{ClusterInfo, InfoRequest, LocalState, NodeInfo};
use skep_template::Format;

/// Show what the daemon knows of itself and the cluster
#[derive(Debug, clap::Args)]
pub struct Info {
    /// json, or a Go template
    #[arg(long, short)]
    format: Option<String>,
}

impl Info {
    /// Prints it; warnings go to standard error.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let info = client::call(CALL_MAX, client.local().info(InfoRequest {})).await?;
        match Format::parse(self.format.as_deref().unwrap_or(""))? {
            Format::Template(template) => output::line(template.render(&fields(&info)?)?)?,
            Format::Json => output::line(fields(&info)?.to_string())?,
            _ => {
                output::write(&text(&info)?)?;
                for warning in &info.warnings {
                    eprintln!("WARNING: {warning}");
                }
            }
        }
        Ok(())
    }
}

/// Swarm's word for a state.
pub fn state(state: LocalState) -> &'static str {
    match state {
        LocalState::Pending => "pending",
        LocalState::Active => "active",
        LocalState::Error => "error",
        LocalState::Locked => "locked",
        LocalState::Inactive | LocalState::Unspecified => "inactive",
    }
}

fn spec(info: &NodeInfo) -> Result<Option<ClusterSpec>, Failure> {
    Ok(info.cluster_spec.clone().map(ClusterSpec::try_from).transpose()?)
}

fn fields(info: &NodeInfo) -> Result<Value, Failure> {
    let description = info.description.clone().unwrap_or_default();
    let platform = description.platform.unwrap_or_default();
    let resources = description.resources.unwrap_or_default();
    let raft = info.cluster.clone().unwrap_or_default();
    let cluster = match spec(info)? {
        None => Value::Null,
        Some(spec) => json!({
            "ID": info.cluster_id,
            "Version": { "Index": info.cluster_version },
            "CreatedAt": ago::stamp(Time(info.cluster_created_at)),
            "UpdatedAt": ago::stamp(Time(info.cluster_updated_at)),
            "Spec": skep_docker::ClusterSpec::of(&spec, raft_config(&raft)),
            "TLSInfo": trust::root(&info.root_ca),
            "RootRotationInProgress": false,
            "DefaultAddrPool": info.default_addr_pool,
            "SubnetSize": info.subnet_size,
            "DataPathPort": info.data_path_port,
            "Raft": { "Term": raft.raft_term, "Index": raft.raft_index, "Tick": raft.tick },
        }),
    };
    let id_at = |address: &str| raft.manager_addresses.iter().find(|it| it.address == address).map_or("", |it| &it.node_id);
    let manager = |address: &String| json!({ "NodeID": id_at(address), "Addr": address });
    let managers: Vec<Value> = info.manager_addresses.iter().map(manager).collect();
    Ok(json!({
        "Name": description.hostname,
        "ServerVersion": info.version,
        "KernelVersion": info.kernel_version,
        "OperatingSystem": info.operating_system,
        "OSType": platform.os,
        "Architecture": platform.architecture,
        "NCPU": resources.nano_cpus / 1_000_000_000,
        "MemTotal": resources.memory_bytes,
        "DockerRootDir": info.data_folder,
        "Containers": info.tasks,
        "ContainersRunning": info.tasks_running,
        "Images": info.images,
        "CgroupVersion": info.cgroup_version,
        "Labels": description.engine_labels,
        "Warnings": info.warnings,
        "Swarm": {
            "NodeID": info.node_id,
            "NodeAddr": info.node_address,
            "LocalNodeState": state(info.state()),
            "ControlAvailable": info.is_manager,
            "Error": info.error,
            "RemoteManagers": managers,
            "Nodes": info.nodes,
            "Managers": info.managers,
            "IsLeader": info.is_leader,
            "LeaderID": info.leader_id,
            "CertificateExpires": stamp_or_empty(info.certificate_expires),
            "Cluster": cluster,
        },
    }))
}

fn raft_config(cluster: &ClusterInfo) -> RaftConfig {
    RaftConfig {
        entries_for_slow_followers: cluster.entries_for_slow_followers,
        election_ticks: cluster.election_ticks,
        heartbeat_ticks: cluster.heartbeat_ticks,
    }
}

fn stamp_or_empty(nanos: u64) -> String {
    if nanos == 0 { String::new() } else { ago::stamp(Time(nanos)) }
}

fn text(info: &NodeInfo) -> Result<String, Failure> {
    let description = info.description.clone().unwrap_or_default();
    let platform = description.platform.unwrap_or_default();
    let resources = description.resources.unwrap_or_default();
    let mut text = format!(
        "Tasks: {}\n Running: {}\nImages: {}\nServer Version: {}\nCgroup Version: {}\n{}",
        info.tasks,
        info.tasks_running,
        info.images,
        info.version,
        info.cgroup_version,
        swarm(info)?
    );
    text.push_str(&format!(
        "Kernel Version: {}\nOperating System: {}\nOSType: {}\nArchitecture: {}\nCPUs: {}\nTotal Memory: {}\nName: {}\nRoot Dir: {}\n",
        info.kernel_version,
        info.operating_system,
        platform.os,
        platform.architecture,
        resources.nano_cpus / 1_000_000_000,
        size::binary(resources.memory_bytes),
        description.hostname,
        info.data_folder
    ));
    if !description.engine_labels.is_empty() {
        text.push_str("Labels:\n");
        for (key, value) in &description.engine_labels {
            text.push_str(&format!(" {key}={value}\n"));
        }
    }
    Ok(text)
}

/// The block that `docker info` has for a swarm.
fn swarm(info: &NodeInfo) -> Result<String, Failure> {
    let mut text = format!("Swarm: {}\n", state(info.state()));
    if matches!(info.state(), LocalState::Inactive | LocalState::Locked | LocalState::Unspecified) {
        return Ok(text);
    }
    let mut line = |label: &str, value: &dyn std::fmt::Display| text.push_str(&format!(" {label}: {value}\n"));
    line("NodeID", &info.node_id);
    if !info.error.is_empty() {
        line("Error", &info.error);
    }
    line("Is Manager", &info.is_manager);
    if let Some(spec) = spec(info)?.filter(|_| info.is_manager && info.error.is_empty()) {
        line("ClusterID", &info.cluster_id);
        line("Managers", &info.managers);
        line("Nodes", &info.nodes);
        if let Some(leader) = &info.leader_id {
            line("Leader", leader);
        }
        line("Default Address Pool", &info.default_addr_pool.join("  "));
        line("SubnetSize", &info.subnet_size);
        line("Data Path Port", &info.data_path_port);
        line("Barrier Timeout", &duration::print(spec.barrier_timeout));
        line("Isolate Nodes", &spec.isolate_nodes);
        text.push_str(&format!(" Orchestration:\n  Task History Retention Limit: {}\n", spec.task_history_limit));
        text.push_str(&format!(
            " Raft:\n  Snapshot Interval: {}\n  Number of Old Snapshots to Retain: {}\n",
            spec.snapshot_interval, spec.max_snapshots
        ));
        let raft = info.cluster.clone().unwrap_or_default();
        text.push_str(&format!("  Heartbeat Tick: {}\n  Election Tick: {}\n", raft.heartbeat_ticks, raft.election_ticks));
        let tick = duration::print(std::time::Duration::from_nanos(raft.tick));
        text.push_str(&format!("  Tick: {tick}\n  Term: {}\n  Index: {}\n", raft.raft_term, raft.raft_index));
        text.push_str(&format!(" Dispatcher:\n  Heartbeat Period: {}\n", ago_words(spec.heartbeat_period)));
        let expiry = ago_words(spec.node_cert_expiry);
        text.push_str(&format!(" CA Configuration:\n  Expiry Duration: {expiry}\n  Force Rotate: 0\n"));
        text.push_str(&format!(" Autolock Managers: {}\n Root Rotation In Progress: false\n", spec.autolock));
    }
    text.push_str(&format!(" Node Address: {}\n", info.node_address));
    if !info.manager_addresses.is_empty() {
        text.push_str(" Manager Addresses:\n");
        for address in &info.manager_addresses {
            text.push_str(&format!("  {address}\n"));
        }
    }
    Ok(text)
}

/// Docker's words for whole seconds and more, Go's form below.
fn ago_words(length: std::time::Duration) -> String {
    if length.as_secs() == 0 { duration::print(length) } else { ago::words(length).to_lowercase() }
}
