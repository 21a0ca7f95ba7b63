//! `skep node`: look at and manage the cluster's nodes.

mod ls;

use crate::client::{self, CALL_MAX, Client};
use crate::failure::Failure;
use clap::Subcommand;
use skep_model::node::Node;
use skep_model::{Kind, NodeId, Object};
use skep_proto::request::Query;
use skep_proto::v1::InfoRequest;
use std::collections::BTreeMap;

/// What can be done with nodes.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List nodes in the swarm
    #[command(visible_alias = "list")]
    Ls(ls::Ls),
}

impl Command {
    /// Carries it out.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        match self {
            Self::Ls(ls) => ls.run(client).await,
        }
    }
}

/// The id of the node that is asked; empty while it is in no cluster.
pub async fn self_id(client: &Client) -> Result<String, Failure> {
    Ok(client::call(CALL_MAX, client.local().info(InfoRequest {})).await?.node_id)
}

/// The name or id as it was given, with `self` replaced.
pub async fn reference(client: &Client, given: &str) -> Result<String, Failure> {
    if given == "self" { self_id(client).await } else { Ok(given.to_owned()) }
}

/// A node and the store version it was read at.
pub async fn get(client: &Client, given: &str) -> Result<Node, Failure> {
    match client.get(Kind::Node, &reference(client, given).await?).await? {
        (Object::Node(node), _) => Ok(*node),
        _ => Err(Failure::refused("the daemon answered with an object of another kind")),
    }
}

/// All nodes that pass the filters.
pub async fn list(client: &Client, filters: Vec<(String, String)>) -> Result<Vec<Node>, Failure> {
    let objects = client.list(&Query::List(Kind::Node, filters)).await?;
    Ok(objects.into_iter().filter_map(|object| if let Object::Node(node) = object { Some(*node) } else { None }).collect())
}

/// The host names of all nodes.
pub async fn names(client: &Client) -> Result<BTreeMap<NodeId, String>, Failure> {
    Ok(list(client, Vec::new()).await?.into_iter().map(|node| (node.id, node.description.value.hostname)).collect())
}
