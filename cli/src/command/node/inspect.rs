//! `skep node inspect`.

use super::ls::{availability, state};
use crate::client::{Client, objects};
use crate::command::inspect;
use crate::failure::{self, Failure};
use crate::render::{ago, json, size};
use skep_model::node::Node;
use skep_model::{Kind, Object, Refusal};
use skep_proto::request::Query;
use std::fmt::Write as _;

/// Display detailed information on one or more nodes
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// Host names or ids, or self
    #[arg(required = true, value_name = "self|NODE")]
    nodes: Vec<String>,
    #[command(flatten)]
    flags: inspect::Flags,
}

impl Inspect {
    /// Prints those that exist, and an error for each other.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let (mut found, mut failures) = (Vec::new(), Vec::new());
        for node in &self.nodes {
            match get(client, node).await {
                Ok(node) => found.push(node),
                Err(failure) => failures.push(failure),
            }
        }
        self.flags.write(&found, |(node, leader)| pretty(node, leader), |(node, leader)| json::node(node, leader))?;
        failure::all(failures)
    }
}

/// A node and the id of the leader.
async fn get(client: &Client, given: &str) -> Result<(Node, String), Failure> {
    let reference = super::reference(client, given).await?;
    let reply = client.read(&Query::Get(Kind::Node, reference.clone())).await?;
    let leader = reply.leader_id.clone().unwrap_or_default();
    match objects(reply)?.pop() {
        Some(Object::Node(node)) => Ok((*node, leader)),
        _ => Err(Refusal::NotFound { kind: Kind::Node, reference }.into()),
    }
}

fn pretty(node: &Node, leader: &str) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &dyn std::fmt::Display| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{label}:\t{value}");
    };
    let description = &node.description;
    line("ID", &node.id);
    for (key, value) in &node.spec.labels {
        line("Label", &format!("{key}={value}"));
    }
    line("Hostname", &description.hostname);
    line("Joined at", &ago::stamp(node.meta.created_at));
    line("State", &state(node.status.state));
    if !node.status.message.is_empty() {
        line("Message", &node.status.message);
    }
    line("Availability", &availability(node.spec.availability));
    line("Address", &node.status.address);
    if let Some(underlay) = &description.underlay {
        line("Data path address", &underlay.address);
    }
    if let Some(ingress) = &node.plan.ingress {
        let addresses: Vec<String> = ingress.addresses.iter().map(ToString::to_string).collect();
        line("Ingress", &format!("number {}, {}", ingress.number, addresses.join(" ")));
    }
    if let Some(manager) = &node.plan.manager {
        line("Manager address", &manager.address);
        line("Manager status", &super::ls::manager_status(node, leader));
    }
    line("Operating System", &description.platform.os);
    line("Architecture", &description.platform.architecture);
    line("CPUs", &(description.resources.nano_cpus / 1_000_000_000));
    line("Memory", &size::binary(description.resources.memory_bytes));
    line("Engine Version", &description.engine_version);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;
    use expect_test::expect;

    #[test]
    fn a_node_for_people() {
        let node = sample::node();
        expect![[r#"
            ID:	0000000000000000000000002
            Hostname:	m1
            Joined at:	1970-01-01T00:00:10Z
            State:	Ready
            Availability:	Active
            Address:	10.0.0.1
            Data path address:	10.0.0.1
            Ingress:	number 1, 10.0.0.2
            Manager address:	10.0.0.1:2377
            Manager status:	Leader
            Operating System:	linux
            Architecture:	amd64
            CPUs:	2
            Memory:	1GiB
            Engine Version:	0.1.0
        "#]]
        .assert_eq(&pretty(&node, node.id.as_str()));
    }
}
