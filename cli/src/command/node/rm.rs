//! `skep node rm`.

use crate::client::Client;
use crate::command::remove;
use crate::failure::Failure;
use skep_model::request::Mutation;

/// Remove one or more nodes from the swarm
#[derive(Debug, clap::Args)]
pub struct Rm {
    /// Host names or ids
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
    /// Force remove a node from the swarm
    #[arg(long, short)]
    force: bool,
}

impl Rm {
    /// Removes each; what cannot be removed does not keep the others.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        remove::each(client, self.nodes, |node| Mutation::RemoveNode { node, force: self.force }).await
    }
}
