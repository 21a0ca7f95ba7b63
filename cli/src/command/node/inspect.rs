//! `skep node inspect`.

use super::ls::{availability, state};
use crate::client::{Client, objects};
use crate::command::inspect;
use crate::command::task::ps::title;
use crate::failure::{self, Failure};
use crate::render::pretty::Text;
use crate::render::{ago, shape, size, trust};
use skep_docker::{NETWORK_DRIVERS, TrustRoot};
use skep_model::node::Node;
use skep_model::{Kind, Object, Refusal};
use skep_proto::request::Query;

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
        let trust = if found.is_empty() { None } else { trust(client).await? };
        self.flags.write(
            &found,
            shape::NODE,
            |(node, leader)| pretty(node, leader, trust.as_ref()),
            |(node, leader)| skep_docker::Node::of(node, leader, trust.as_ref()),
        )?;
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

/// Whom the nodes of the cluster trust.
async fn trust(client: &Client) -> Result<Option<TrustRoot>, Failure> {
    match client.get(Kind::Cluster, "").await? {
        (Object::Cluster(cluster), _) => Ok(trust::root(&cluster.plan.root_ca)),
        _ => Err(Failure::refused("the daemon answered with an object of another kind")),
    }
}

/// Docker's text, then what only this version knows of a node.
fn pretty(node: &Node, leader: &str, trust: Option<&TrustRoot>) -> String {
    let (description, status) = (&node.description, &node.status);
    let mut text = Text::default();
    text.line(format!("ID:\t\t\t{}", node.id));
    text.map("Labels:", " - ", &node.spec.labels);
    text.line(format!("Hostname:              \t{}", description.hostname));
    text.line(format!("Joined at:             \t{}", ago::people(node.meta.created_at)));
    text.line("Status:");
    text.line(format!(" State:\t\t\t{}", state(status.state)));
    text.some(" Message:\t\t", &status.message);
    text.line(format!(" Availability:         \t{}", availability(node.spec.availability)));
    text.some(" Address:\t\t", &status.address);
    if let Some(manager) = &node.plan.manager {
        text.line("Manager Status:");
        text.line(format!(" Address:\t\t{}", manager.address));
        text.line(format!(" Raft Status:\t\t{}", title(skep_docker::reachability(node))));
        text.line(format!(" Leader:\t\t{}", if node.id.as_str() == leader { "Yes" } else { "No" }));
    }
    text.line("Platform:");
    text.line(format!(" Operating System:\t{}", description.platform.os));
    text.line(format!(" Architecture:\t\t{}", description.platform.architecture));
    text.line("Resources:");
    text.line(format!(" CPUs:\t\t\t{}", description.resources.nano_cpus / 1_000_000_000));
    text.line(format!(" Memory:\t\t{}", size::binary(description.resources.memory_bytes)));
    text.line("Plugins:");
    text.line(format!(" Network:\t\t{}", NETWORK_DRIVERS.join(", ")));
    text.line(format!("Engine Version:\t\t{}", description.engine_version));
    text.map("Engine Labels:", " - ", &description.engine_labels);
    if let Some(trust) = trust {
        text.line("TLS Info:");
        text.line(" TrustRoot:");
        text.block(&trust.certificate);
        text.line("");
        text.line(format!(" Issuer Subject:\t{}", trust.subject));
        text.line(format!(" Issuer Public Key:\t{}", trust.public_key));
    }
    network(&mut text, node);
    faults(&mut text, node);
    text.finish()
}

/// Where the node is on the overlay networks.
fn network(text: &mut Text, node: &Node) {
    if let Some(underlay) = &node.description.underlay {
        text.line(format!("Data Path Address:\t{}", underlay.address));
    }
    if let Some(ingress) = &node.plan.ingress {
        let addresses: Vec<String> = ingress.addresses.iter().map(ToString::to_string).collect();
        text.line(format!("Ingress:\t\tnumber {}, {}", ingress.number, addresses.join(" ")));
    }
}

/// The places of its network that do not work.
fn faults(text: &mut Text, node: &Node) {
    let faults = &node.status.faults;
    if faults.is_empty() {
        return;
    }
    text.line("Faults:");
    faults.faults.iter().for_each(|fault| text.line(format!(" {}:\t{}", fault.place, fault.reason)));
    if faults.n_more > 0 {
        text.line(format!(" and {} more", faults.n_more));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;
    use expect_test::expect;

    #[test]
    fn a_node_for_people() {
        let trust = TrustRoot { certificate: "PEM\n".into(), subject: "MA==".into(), public_key: "MQ==".into() };
        let mut node = sample::node();
        node.spec.value.labels.insert("zone".into(), "a\x1b[31m".into());
        expect![[r#"
            ID:			0000000000000000000000002
            Labels:
             - zone=a\u{1b}[31m
            Hostname:              	m1
            Joined at:             	1970-01-01 00:00:10 +0000 utc
            Status:
             State:			Ready
             Availability:         	Active
             Address:		10.0.0.1
            Manager Status:
             Address:		10.0.0.1:2377
             Raft Status:		Reachable
             Leader:		Yes
            Platform:
             Operating System:	linux
             Architecture:		amd64
            Resources:
             CPUs:			2
             Memory:		1GiB
            Plugins:
             Network:		bridge, host, null, overlay
            Engine Version:		0.1.0
            TLS Info:
             TrustRoot:
            PEM

             Issuer Subject:	MA==
             Issuer Public Key:	MQ==
            Data Path Address:	10.0.0.1
            Ingress:		number 1, 10.0.0.2
        "#]]
        .assert_eq(&pretty(&node, node.id.as_str(), Some(&trust)));
    }

    #[test]
    fn what_does_not_work_of_a_node_is_said() {
        use skep_model::place::{Place, PlaceFault, PlaceFaults};
        let mut node = sample::node();
        let faults = [
            PlaceFault::lasting(Place::Node, "networks work over IPv4 only"),
            PlaceFault::blocking(Place::Task(sample::task().id), "its tables cannot be written"),
        ];
        node.status.value.faults = PlaceFaults { n_more: 3, ..PlaceFaults::new(faults) };
        let text = pretty(&node, "", None);
        let task = format!(" task {}:\tits tables cannot be written\n", sample::task().id);
        let expected = format!("Faults:\n node:\tnetworks work over IPv4 only\n{task} and 3 more\n");
        assert!(text.ends_with(&expected), "{text}");
        let json = serde_json::to_value(skep_docker::Node::of(&node, "", None)).expect("JSON");
        assert_eq!(json["Status"]["Faults"][0]["Reason"], "networks work over IPv4 only");
        assert_eq!(json["Status"]["MoreFaults"], 3);
    }
}
