//! `skep network`: the overlay networks of the cluster.
//!
//! Only the cluster's networks are here. `host`, `none` and `bridge`, which docker
//! lists with them, are every node's own and no objects of the cluster.

mod create;
mod inspect;
pub mod known;
mod ls;
mod prune;
mod rm;
mod verify;

use crate::client::Client;
use crate::failure::Failure;
use clap::Subcommand;
use skep_model::network::Network;
use skep_model::{Kind, Object};
use skep_proto::request::Query;

/// What can be done with networks.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a network
    Create(create::Create),
    /// Display detailed information on one or more networks
    Inspect(inspect::Inspect),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(ls::Ls),
    /// Remove all unused networks
    Prune(prune::Prune),
    /// Remove one or more networks
    #[command(visible_alias = "remove")]
    Rm(rm::Rm),
    /// Ask every node what it reaches over the networks
    Verify(verify::Verify),
}

impl Command {
    /// Carries it out.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.run(client).await,
            Self::Inspect(inspect) => inspect.run(client).await,
            Self::Ls(ls) => ls.run(client).await,
            Self::Prune(prune) => prune.run(client).await,
            Self::Rm(rm) => rm.run(client).await,
            Self::Verify(verify) => verify.run(client).await,
        }
    }
}

/// All networks, by name.
async fn all(client: &Client) -> Result<Vec<Network>, Failure> {
    asked(client, &Query::List(Kind::Network, Vec::new())).await
}

/// The networks that a query names, by name.
async fn asked(client: &Client, query: &Query) -> Result<Vec<Network>, Failure> {
    let objects = client.list(query).await?;
    let network = |object| if let Object::Network(network) = object { Some(*network) } else { None };
    let mut networks: Vec<Network> = objects.into_iter().filter_map(network).collect();
    networks.sort_by(|a, b| a.spec.annotations.name.cmp(&b.spec.annotations.name));
    Ok(networks)
}

/// A network by id, name or unique prefix.
async fn get(client: &Client, reference: &str) -> Result<Network, Failure> {
    match client.get(Kind::Network, reference).await? {
        (Object::Network(network), _) => Ok(*network),
        _ => Err(Failure::refused("the daemon answered with an object of another kind")),
    }
}
