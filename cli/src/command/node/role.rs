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
    /// The node that is asked comes last where it is to be no manager any more: it can be
    /// asked for nothing else then.
    pub async fn set(self, client: &Client, role: Role) -> Result<(), Failure> {
        let mut failures = Vec::new();
        let mut names = self.nodes;
        if role == Role::Worker && names.len() > 1 {
            let own = super::self_id(client).await?;
            let mut last = Vec::new();
            for name in &names {
                // One that is not known is told of in its turn.
                last.push(super::get(client, name).await.is_ok_and(|node| node.id.as_str() == own));
            }
            let (asked, others): (Vec<_>, Vec<_>) = names.into_iter().zip(last).partition(|(_, is_own)| *is_own);
            names = others.into_iter().chain(asked).map(|(name, _)| name).collect();
        }
        for name in &names {
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
