//! `skep swarm`: make, join and leave a cluster, its tokens and settings.

pub mod init;
mod join;
mod join_token;
mod leave;
mod unlock;
mod update;

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
    /// Leave the swarm
    Leave(leave::Leave),
    /// Unlock this manager
    Unlock,
    /// Manage the unlock key
    UnlockKey(unlock::UnlockKey),
    /// Update the swarm
    #[command(arg_required_else_help = true)]
    Update(update::Update),
}

impl Command {
    /// Carries it out.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        match self {
            Self::Init(init) => init.run(client).await,
            Self::Join(join) => join.run(client).await,
            Self::JoinToken(join_token) => join_token.run(client).await,
            Self::Leave(leave) => leave.run(client).await,
            Self::Unlock => unlock::run(client).await,
            Self::UnlockKey(unlock_key) => unlock_key.run(client).await,
            Self::Update(update) => update.run(client).await,
        }
    }
}
