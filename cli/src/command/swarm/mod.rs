//! `skep swarm`: make, join and leave a cluster, its tokens and settings.

mod init;
mod join;
mod join_token;

use crate::client::Client;
use crate::failure::Failure;
use clap::Subcommand;

/// What can be done with the cluster itself.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make this node the first manager of a new cluster
    Init(init::Init),
    /// Join a cluster as a node and/or manager
    Join(join::Join),
    /// Manage join tokens
    JoinToken(join_token::JoinToken),
}

impl Command {
    /// Carries it out.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        match self {
            Self::Init(init) => init.run(client).await,
            Self::Join(join) => join.run(client).await,
            Self::JoinToken(join_token) => join_token.run(client).await,
        }
    }
}
