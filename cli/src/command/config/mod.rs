//! `skep config`: values that everyone with access may read.

mod create;
mod ls;

use crate::client::Client;
use crate::failure::Failure;
use clap::Subcommand;

/// What can be done with configs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a config from a file or STDIN
    Create(create::Create),
    /// List configs
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
