//! `skep node promote` and `skep node demote`.

use crate::client::{Attempts, Client};
use crate::failure::{self, Failure};
use crate::render::output;
use skep_model::node::{NodeSpec, Role};
use skep_model::request::Mutation;

/// The nodes whose role is to change
#[derive(Debug, clap::Args)]
pub struct Nodes {
    /// Host names or ids
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

impl Nodes {
    /// Gives each the role; one that has it already is told of, not refused.
    pub async fn set(self, client: &Client, role: Role) -> Result<(), Failure> {
        let mut failures = Vec::new();
        for name in &self.nodes {
            match set(client, name, role).await {
                Ok(text) => output::line(text)?,
                Err(failure) => failures.push(failure),
            }
        }
        failure::all(failures)
    }
}

async fn set(client: &Client, name: &str, role: Role) -> Result<String, Failure> {
    let attempts = Attempts::begin();
    loop {
        let node = super::get(client, name).await?;
        if node.spec.desired_role == role {
            let has = if role == Role::Manager { "manager" } else { "worker" };
            return Ok(format!("Node {name} is already a {has}."));
        }
        let spec = NodeSpec { desired_role: role, ..node.spec.value };
        let change = Mutation::UpdateNode { node: node.id.to_string(), expect: Some(node.spec.version), spec };
        match client.mutate(&change).await {
            Err(failure) if attempts.again(&failure) => {}
            Ok(_) => break,
            Err(failure) => return Err(failure),
        }
    }
    Ok(match role {
        Role::Manager => format!("Node {name} promoted to a manager in the swarm."),
        Role::Worker => format!("Manager {name} demoted in the swarm."),
    })
}
