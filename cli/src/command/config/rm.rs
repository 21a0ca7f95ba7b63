//! `skep config rm`.

use crate::client::Client;
use crate::failure::{self, Failure};
use crate::render::output;
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
        let mut failures = Vec::new();
        for config in self.configs {
            match client.mutate(&Mutation::RemoveConfig { config: config.clone() }).await {
                Ok(_) => output::line(&config)?,
                Err(failure) => failures.push(failure),
            }
        }
        failure::all(failures)
    }
}
