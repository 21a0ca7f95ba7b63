//! `skep node`: look at and manage the cluster's nodes.

mod inspect;
pub mod ls;
mod ps;
mod rm;
mod role;
mod update;

use crate::client::{self, CALL_MAX, Client};
use crate::failure::Failure;
use clap::Subcommand;
use skep_model::node::{Node, Role};
use skep_model::{Kind, NodeId, Object};
use skep_proto::request::Query;
use skep_proto::v1::InfoRequest;
use std::collections::BTreeMap;

/// What can be done with nodes.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Demote one or more nodes from manager in the swarm
    Demote(role::Nodes),
    /// Display detailed information on one or more nodes
    Inspect(inspect::Inspect),
    /// List nodes in the swarm
    #[command(visible_alias = "list")]
    Ls(ls::Ls),
    /// Promote one or more nodes to manager in the swarm
    Promote(role::Nodes),
    /// List tasks running on one or more nodes, defaults to current node
    Ps(ps::Ps),
    /// Remove one or more nodes from the swarm
    #[command(visible_alias = "remove")]
    Rm(rm::Rm),
    /// Update a node
    Update(update::Update),
}

impl Command {
    /// Carries it out.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        match self {
            Self::Demote(nodes) => nodes.set(client, Role::Worker).await,
            Self::Inspect(inspect) => inspect.run(client).await,
            Self::Ls(ls) => ls.run(client).await,
            Self::Promote(nodes) => nodes.set(client, Role::Manager).await,
            Self::Ps(ps) => ps.run(client).await,
            Self::Rm(rm) => rm.run(client).await,
            Self::Update(update) => update.run(client).await,
        }
    }
}

/// The id of the node that is asked; empty while it is in no cluster.
pub async fn self_id(client: &Client) -> Result<String, Failure> {
    Ok(client::call(CALL_MAX, client.local().info(InfoRequest {})).await?.node_id)
}

/// The name or id as it was given, with `self` replaced.
pub async fn reference(client: &Client, given: &str) -> Result<String, Failure> {
    if given != "self" {
        return Ok(given.to_owned());
    }
    match self_id(client).await? {
        id if id.is_empty() => Err(Failure::refused("this node is not part of a swarm")),
        id => Ok(id),
    }
}

/// A node by id, host name, unique prefix or `self`.
pub async fn get(client: &Client, given: &str) -> Result<Node, Failure> {
    match client.get(Kind::Node, &reference(client, given).await?).await? {
        (Object::Node(node), _) => Ok(*node),
        _ => Err(Failure::refused("the daemon answered with an object of another kind")),
    }
}

/// The host names of all nodes.
pub async fn names(client: &Client) -> Result<BTreeMap<NodeId, String>, Failure> {
    Ok(all(client).await?.into_iter().map(|node| (node.id, node.description.value.hostname)).collect())
}

/// All nodes.
pub async fn all(client: &Client) -> Result<Vec<Node>, Failure> {
    let objects = client.list(&Query::List(Kind::Node, Vec::new())).await?;
    Ok(objects.into_iter().filter_map(|object| if let Object::Node(node) = object { Some(*node) } else { None }).collect())
}
