//! What `info` and `version` say. Nothing here waits for the cluster: a manager
//! answers from what it has.

use crate::member;
use crate::node::{Node, Phase, View};
use skep_host::clock;
use skep_manager::ControlApi;
use skep_model::version::{FORMAT_MAX, PROTOCOL_MAX, PROTOCOL_MIN, RELEASE};
use skep_proto::v1::control_server::Control as _;
use skep_proto::v1::read_request::Query;
use skep_proto::v1::{ClusterInfoQuery, GetQuery, Kind, LocalState, NodeInfo, ReadReply, ReadRequest, VersionReply, object};
use std::path::Path;
use std::time::Duration;
use tonic::Code;

/// How long this node's own manager may take to look.
const LOOK_MAX: Duration = Duration::from_secs(2);

const TWO_MANAGERS: &str = "Running Swarm in a two-manager configuration. This configuration provides no fault tolerance, \
     and poses a high risk to lose control over the cluster. Refer to the documentation on how to add a third manager.";

const UNLOCKED_MANAGER: &str = "This cluster is autolocked, but this manager's keystore is not: its key lies beside it on disk. \
     Only the manager that ran `swarm init --autolock` is locked by this version.";

/// This build.
pub fn version() -> VersionReply {
    VersionReply {
        version: RELEASE.into(),
        format_max: FORMAT_MAX,
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        os: std::env::consts::OS.into(),
        architecture: std::env::consts::ARCH.into(),
        kernel_version: kernel(),
    }
}

/// The node and, as far as it knows, its cluster.
pub async fn info(node: &Node) -> NodeInfo {
    let view = node.view();
    let mut info = NodeInfo {
        state: view.state.into(),
        error: view.error.clone(),
        is_manager: view.control.is_some(),
        description: Some((&member::description(node, None)).into()),
        version: RELEASE.into(),
        kernel_version: kernel(),
        operating_system: operating_system(),
        data_folder: node.settings.data.display().to_string(),
        images: image_count(node),
        cgroup_version: cgroup_version(Path::new("/sys/fs/cgroup")).into(),
        ..NodeInfo::default()
    };
    if let Some((id, cluster, advertise)) = &view.place {
        info.node_id = id.to_string();
        info.cluster_id = cluster.to_string();
        info.node_address = advertise.ip().to_string();
    }
    // While the phase is being changed, tasks are not counted.
    if let Some(phase) = node.phase_now()
        && let Phase::Active(member) = &*phase
    {
        (info.tasks, info.tasks_running) = member.agent.counts();
        info.warnings.extend(member.agent.waiting());
    }
    add_certificate(&mut info, &view);
    add_refusal(&mut info, &view);
    add_managers(&mut info, &view);
    if let Some(control) = &view.control {
        add_cluster(&mut info, control).await;
    }
    add_warnings(&mut info, view.is_autolocked);
    info
}

/// A node that was removed learns it here: nobody talks to it any more. Other
/// refusals, such as of a manager that does not lead, pass.
fn add_refusal(info: &mut NodeInfo, view: &View) {
    let refusal = view.refusal.as_ref().and_then(|refusal| refusal.borrow().clone());
    let Some(status) = refusal.filter(|status| status.code() == Code::PermissionDenied) else { return };
    info.state = LocalState::Error.into();
    if info.error.is_empty() {
        info.error = format!(
            "the managers refuse this node: {}; its tasks run on until `skep swarm leave`, then it may join again with a token",
            status.message()
        );
    }
}

fn add_certificate(info: &mut NodeInfo, view: &View) {
    let Some(certificate) = view.tls.as_ref().map(skep_identity::tls::TlsIdentity::node) else { return };
    info.certificate_expires = certificate.not_after.0;
    if certificate.is_expired(clock::now()) {
        info.state = LocalState::Error.into();
        if info.error.is_empty() {
            info.error = format!("this node's certificate expired at {}", clock::readable(certificate.not_after));
        }
    }
}

fn add_managers(info: &mut NodeInfo, view: &View) {
    if let Some(session) = view.info.as_ref().and_then(|info| info.borrow().clone()) {
        info.manager_addresses = session.managers.into_iter().map(|(_, address)| address).collect();
    }
    if let Some(leadership) = &view.leadership {
        let leadership = leadership.borrow();
        info.is_leader = leadership.is_self;
        info.leader_id = leadership.leader.as_ref().map(|(node, _)| node.to_string());
    }
}

async fn add_cluster(info: &mut NodeInfo, control: &ControlApi) {
    let Some(known) = look(control, Query::ClusterInfo(ClusterInfoQuery {})).await.and_then(|reply| reply.cluster_info) else {
        info.warnings.push("the cluster's state could not be read on this manager".into());
        return;
    };
    (info.managers, info.nodes) = (known.managers, known.nodes);
    info.manager_addresses = known.manager_addresses.iter().map(|manager| manager.address.clone()).collect();
    info.manager_addresses.sort();
    info.cluster = Some(known);
    let query = Query::Get(GetQuery { kind: Kind::Cluster.into(), reference: String::new() });
    let objects = look(control, query).await.map(|reply| reply.objects).unwrap_or_default();
    for object in objects {
        if let Some(object::Object::Cluster(cluster)) = object.object {
            info.cluster_spec = cluster.spec.and_then(|section| section.value);
            let meta = cluster.meta.unwrap_or_default();
            (info.cluster_created_at, info.cluster_updated_at) = (meta.created_at, meta.updated_at);
            info.cluster_version = meta.version;
            info.root_ca = cluster.plan.and_then(|section| section.value).map(|plan| plan.root_ca).unwrap_or_default();
        }
    }
    if let Some(spec) = &info.cluster_spec {
        info.default_addr_pool.clone_from(&spec.address_pools);
        (info.subnet_size, info.data_path_port) = (spec.subnet_size, spec.data_path_port);
    }
}

async fn look(control: &ControlApi, query: Query) -> Option<ReadReply> {
    let request = tonic::Request::new(ReadRequest { query: Some(query), stale: true });
    let reply = tokio::time::timeout(LOOK_MAX, control.read(request)).await.ok()?;
    reply.map(tonic::Response::into_inner).ok()
}

fn add_warnings(info: &mut NodeInfo, is_autolocked: bool) {
    if !is_autolocked && info.cluster_spec.as_ref().is_some_and(|spec| spec.autolock) {
        info.warnings.push(UNLOCKED_MANAGER.into());
    }
    if info.managers == 2 {
        info.warnings.push(TWO_MANAGERS.into());
    }
}

fn image_count(node: &Node) -> u64 {
    let ids: std::collections::BTreeSet<String> = node.images.list().into_iter().map(|image| image.id.to_string()).collect();
    ids.len() as u64
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

fn operating_system() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    pretty_name(&text).unwrap_or("Linux").to_owned()
}

fn pretty_name(os_release: &str) -> Option<&str> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim().trim_matches(['"', '\''])).filter(|name| !name.is_empty())
}

fn cgroup_version(root: &Path) -> &'static str {
    if root.join("cgroup.controllers").exists() { "2" } else { "1" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_is_named() {
        for (text, name) in [
            ("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n", Some("Debian GNU/Linux 13 (trixie)")),
            ("PRETTY_NAME='Alpine'", Some("Alpine")),
            ("PRETTY_NAME=\"\"", None),
            ("", None),
        ] {
            assert_eq!(pretty_name(text), name);
        }
        assert!(!kernel().is_empty());
    }

    #[test]
    fn two_managers_are_warned_of() {
        let mut info = NodeInfo { managers: 2, ..NodeInfo::default() };
        add_warnings(&mut info, false);
        assert_eq!(info.warnings.len(), 1);
        let spec = Some(skep_proto::v1::ClusterSpec { autolock: true, ..Default::default() });
        for (is_autolocked, count) in [(true, 0), (false, 1)] {
            let mut info = NodeInfo { cluster_spec: spec.clone(), ..NodeInfo::default() };
            add_warnings(&mut info, is_autolocked);
            assert_eq!(info.warnings.len(), count);
        }
        assert!(info.warnings[0].starts_with("Running Swarm in a two-manager configuration."));
    }
}
