//! `skep image`: the image store of the node that is asked.

mod load;
mod ls;
mod pull;
mod rm;

use crate::client::Client;
use crate::failure::Failure;
use clap::Subcommand;

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Load images from an archive (OCI layout or docker save)
    Load(load::Load),
    /// List images
    #[command(visible_alias = "list")]
    Ls(ls::Ls),
    /// Download an image from a registry
    Pull(pull::Pull),
    /// Remove one or more images
    #[command(visible_alias = "remove")]
    Rm(rm::Rm),
}

impl Command {
    /// Carries it out.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        match self {
            Self::Load(load) => load.run(client).await,
            Self::Ls(ls) => ls.run(client).await,
            Self::Pull(pull) => pull.run(client).await,
            Self::Rm(rm) => rm.run(client).await,
        }
    }
}
