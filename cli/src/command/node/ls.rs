//! `skep node ls`.

use crate::client::Client;
use crate::command::list;
use crate::command::task::ps::title;
use crate::failure::Failure;
use crate::flags::time;
use crate::render::listing::{Listing, row};
use skep_docker::Word;
use skep_model::node::{Availability, Node, NodeState};
use skep_model::{Kind, Object, Time};
use skep_proto::request::Query;
use std::time::Duration;

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
        let cluster = client.list(&Query::List(Kind::Cluster, Vec::new())).await?;
        let validity = cluster.into_iter().find_map(|object| match object {
            Object::Cluster(cluster) => Some(cluster.spec.node_cert_expiry),
            _ => None,
        });
        let listed = client.pages(&query).await?;
        let leader = listed.leader.unwrap_or_default();
        let mut nodes: Vec<Node> = listed
            .objects
            .into_iter()
            .filter_map(|object| if let Object::Node(node) = object { Some(*node) } else { None })
            .collect();
        nodes.sort_by(|a, b| a.description.hostname.cmp(&b.description.hostname).then(a.id.cmp(&b.id)));
        let clock = Clock { now: time::now(), validity: validity.unwrap_or_default() };
        self.flags.write(&listing(&nodes, &self_id, &leader, clock))
    }
}

/// What certificates are judged by.
#[derive(Clone, Copy, Debug)]
struct Clock {
    now: Time,
    validity: Duration,
}

fn listing(nodes: &[Node], self_id: &str, leader: &str, clock: Clock) -> Listing {
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
                    ("TLSStatus", tls_status(node, clock.now, clock.validity).into()),
                    ("EngineVersion", node.description.engine_version.as_str().into()),
                ])
            })
            .collect(),
        labels: Vec::new(),
        quiet: nodes.iter().map(|node| node.id.to_string()).collect(),
    }
}

/// As a column shows it.
pub fn state(state: NodeState) -> String {
    title(state.word())
}

/// As a column shows it.
pub fn availability(availability: Availability) -> String {
    title(availability.word())
}

/// `Leader`, `Reachable`, `Unreachable`, or nothing for a worker.
pub fn manager_status(node: &Node, leader: &str) -> String {
    match &node.plan.manager {
        None => String::new(),
        Some(_) if node.id.as_str() == leader => "Leader".to_owned(),
        Some(_) => title(skep_docker::reachability(node)),
    }
}

/// The state of a node's newest certificate: `Ready`, `Needs Rotation` when its renewal is
/// overdue, `Expired`, or `Unknown` where none was recorded.
pub fn tls_status(node: &Node, now: Time, validity: Duration) -> &'static str {
    let expires = node.plan.certificate_expires;
    if expires == Time::ZERO {
        return "Unknown";
    }
    if expires <= now {
        return "Expired";
    }
    // A node renews its certificate before four fifths of its life are over.
    if expires.since(now) < validity / 5 { "Needs Rotation" } else { "Ready" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;

    #[test]
    fn a_certificate_is_as_old_as_it_is() {
        let (day, validity) = (Duration::from_secs(86_400), Duration::from_secs(90 * 86_400));
        let now = Time::ZERO + 1_000 * day;
        for (expires, expected) in [
            (Time::ZERO, "Unknown"),
            (now - day, "Expired"),
            (now, "Expired"),
            (now + 17 * day, "Needs Rotation"),
            (now + 18 * day, "Ready"),
            (now + validity, "Ready"),
        ] {
            let mut node = sample::node();
            node.plan.value.certificate_expires = expires;
            assert_eq!(tls_status(&node, now, validity), expected, "{expires:?}");
        }
    }

    /// A node's agent may have a session while its manager's loop is dead, and the other way round.
    #[test]
    fn a_manager_is_reachable_as_raft_says() {
        let mut node = sample::node();
        for (state, unreachable, expected) in [
            (NodeState::Ready, true, "Unreachable"),
            (NodeState::Ready, false, "Reachable"),
            (NodeState::Down, false, "Reachable"),
        ] {
            node.status.value.state = state;
            node.plan.value.manager.as_mut().expect("the sample is a manager").unreachable = unreachable;
            assert_eq!(manager_status(&node, "another"), expected);
            assert_eq!(manager_status(&node, node.id.as_str()), "Leader");
        }
    }
}
