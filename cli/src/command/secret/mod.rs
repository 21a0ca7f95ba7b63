//! `skep secret`: values that only tasks see.

mod create;
mod ls;

use crate::client::Client;
use crate::failure::Failure;
use clap::Subcommand;

/// What can be done with secrets.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a secret from a file or STDIN as content
    Create(create::Create),
    /// List secrets
    #[command(visible_alias = "list")]
    Ls(ls::Ls),
}

impl Command {
    /// Carries it out.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.run(client).await,
            Self::Ls(ls) => ls.run(client).await,
        }
    }
}
