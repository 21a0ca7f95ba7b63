//! `skep task`, and the lists of tasks that services and nodes share.

mod inspect;
pub mod ps;

use crate::client::Client;
use crate::failure::Failure;
use clap::Subcommand;

/// What can be done with tasks.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Display detailed information on one or more tasks
    Inspect(inspect::Inspect),
}

impl Command {
    /// Carries it out.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        match self {
            Self::Inspect(inspect) => inspect.run(client).await,
        }
    }
}
