//! `skep task`, and the lists of tasks that services and nodes share.

pub mod ps;

use crate::client::Client;
use crate::failure::Failure;
use clap::Subcommand;

/// What can be done with tasks.
#[derive(Debug, Subcommand)]
pub enum Command {}

impl Command {
    /// Carries it out.
    pub async fn run(self, _client: &Client) -> Result<(), Failure> {
        match self {}
    }
}
