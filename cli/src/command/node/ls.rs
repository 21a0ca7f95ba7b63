//! `skep node ls`.

use crate::client::{Client, objects};
use crate::failure::Failure;
use crate::flags::filter;
use crate::render::listing::{Listing, row};
use crate::render::output;
use skep_model::node::{Availability, Node, NodeState};
use skep_model::{Kind, Object};
use skep_proto::request::Query;

/// List nodes in the swarm
#[derive(Debug, clap::Args)]
pub struct Ls {
    /// Filter output based on conditions provided
    #[arg(long, short, value_parser = filter::parse, value_name = "KEY=VALUE")]
    filter: Vec<(String, String)>,
    /// table, table TEMPLATE, json, or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Only display IDs
    #[arg(long, short)]
    quiet: bool,
}

impl Ls {
    /// Prints the list.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        filter::check(Kind::Node, &self.filter)?;
        let self_id = super::self_id(client).await?;
        let reply = client.read(&Query::List(Kind::Node, self.filter)).await?;
        let leader = reply.leader_id.clone().unwrap_or_default();
        let mut nodes: Vec<Node> = objects(reply)?
            .into_iter()
            .filter_map(|object| if let Object::Node(node) = object { Some(*node) } else { None })
            .collect();
        nodes.sort_by(|a, b| a.description.hostname.cmp(&b.description.hostname).then(a.id.cmp(&b.id)));
        output::write(&listing(&nodes, &self_id, &leader).render(self.format.as_deref(), self.quiet)?)
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
        Some(_) if matches!(node.status.state, NodeState::Down | NodeState::Disconnected) => "Unreachable",
        Some(_) => "Reachable",
    }
}
