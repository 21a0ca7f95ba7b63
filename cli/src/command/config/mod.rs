//! `skep config`: values that everyone with access may read.

mod create;
mod inspect;
mod ls;
mod rm;
mod update;

use crate::client::Client;
use crate::failure::Failure;
use clap::Subcommand;

/// What can be done with configs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a config from a file or STDIN
    Create(create::Create),
    /// Display detailed information on one or more configs
    Inspect(inspect::Inspect),
    /// List configs
    #[command(visible_alias = "list")]
    Ls(ls::Ls),
    /// Remove one or more configs
    #[command(visible_alias = "remove")]
    Rm(rm::Rm),
    /// Give a config a new version, which its services roll out
    Update(update::Update),
}

impl Command {
    /// Carries it out.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.run(client).await,
            Self::Inspect(inspect) => inspect.run(client).await,
            Self::Ls(ls) => ls.run(client).await,
            Self::Rm(rm) => rm.run(client).await,
            Self::Update(update) => update.run(client).await,
        }
    }
}
