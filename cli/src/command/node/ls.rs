//! `skep node ls`.

use crate::client::{Client, objects};
use crate::command::list;
use crate::failure::Failure;
use crate::render::listing::{Listing, row};
use skep_model::node::{Availability, Node, NodeState};
use skep_model::{Kind, Object};

/// List nodes in the swarm
#[derive(Debug, clap::Args)]
pub struct Ls {
    #[command(flatten)]
    flags: list::Flags,
}

impl Ls {
    /// Prints the list.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let query = self.flags.query(Kind::Node)?;
        let self_id = super::self_id(client).await?;
        let reply = client.read(&query).await?;
        let leader = reply.leader_id.clone().unwrap_or_default();
        let mut nodes: Vec<Node> = objects(reply)?
            .into_iter()
            .filter_map(|object| if let Object::Node(node) = object { Some(*node) } else { None })
            .collect();
        nodes.sort_by(|a, b| a.description.hostname.cmp(&b.description.hostname).then(a.id.cmp(&b.id)));
        self.flags.write(&listing(&nodes, &self_id, &leader))
    }
}

fn listing(nodes: &[Node], self_id: &str, leader: &str) -> Listing {
    Listing {
        columns: "{{.ID}} {{if .Self}}*{{else}} {{end}}\t{{.Hostname}}\t{{.Status}}\t{{.Availability}}\t{{.ManagerStatus}}\t{{.EngineVersion}}",
        headers: &[
            ("ID", "ID"),
            ("Self", ""),
            ("Hostname", "HOSTNAME"),
            ("Status", "STATUS"),
            ("Availability", "AVAILABILITY"),
            ("ManagerStatus", "MANAGER STATUS"),
            ("TLSStatus", "TLS STATUS"),
            ("EngineVersion", "ENGINE VERSION"),
        ],
        raw: &[
            ("node_id", "ID"),
            ("hostname", "Hostname"),
            ("status", "Status"),
            ("availability", "Availability"),
            ("manager_status", "ManagerStatus"),
        ],
        rows: nodes
            .iter()
            .map(|node| {
                row([
                    ("ID", node.id.as_str().into()),
                    ("Self", (node.id.as_str() == self_id).into()),
                    ("Hostname", node.description.hostname.as_str().into()),
                    ("Status", state(node.status.state).into()),
                    ("Availability", availability(node.spec.availability).into()),
                    ("ManagerStatus", manager_status(node, leader).into()),
                    ("TLSStatus", "Ready".into()),
                    ("EngineVersion", node.description.engine_version.as_str().into()),
                ])
            })
            .collect(),
        quiet: nodes.iter().map(|node| node.id.to_string()).collect(),
    }
}

/// As a column shows it.
pub fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Unknown => "Unknown",
        NodeState::Down => "Down",
        NodeState::Ready => "Ready",
        NodeState::Disconnected => "Disconnected",
    }
}

/// As a column shows it.
pub fn availability(availability: Availability) -> &'static str {
    match availability {
        Availability::Active => "Active",
        Availability::Pause => "Pause",
        Availability::Drain => "Drain",
    }
}

/// `Leader`, `Reachable`, `Unreachable`, or nothing for a worker.
pub fn manager_status(node: &Node, leader: &str) -> &'static str {
    match &node.plan.manager {
        None => "",
        Some(_) if node.id.as_str() == leader => "Leader",
        Some(_) => reachability(node),
    }
}

/// `Reachable` or `Unreachable`, for a manager.
pub fn reachability(node: &Node) -> &'static str {
    if matches!(node.status.state, NodeState::Down | NodeState::Disconnected) { "Unreachable" } else { "Reachable" }
}
