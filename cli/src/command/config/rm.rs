//! `skep config rm`.

use crate::client::Client;
use crate::command::remove;
use crate::failure::Failure;
use skep_model::request::Mutation;

/// Remove one or more configs
#[derive(Debug, clap::Args)]
pub struct Rm {
    /// Names or ids
    #[arg(required = true, value_name = "CONFIG")]
    configs: Vec<String>,
}

impl Rm {
    /// Removes each; what cannot be removed does not keep the others.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        remove::each(client, self.configs, |config| Mutation::RemoveConfig { config }).await
    }
}
