//! `skep secret rm`.

use crate::client::Client;
use crate::failure::{self, Failure};
use crate::render::output;
use skep_model::request::Mutation;

/// Remove one or more secrets
#[derive(Debug, clap::Args)]
pub struct Rm {
    /// Names or ids
    #[arg(required = true, value_name = "SECRET")]
    secrets: Vec<String>,
}

impl Rm {
    /// Removes each; what cannot be removed does not keep the others.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let mut failures = Vec::new();
        for secret in self.secrets {
            match client.mutate(&Mutation::RemoveSecret { secret: secret.clone() }).await {
                Ok(_) => output::line(&secret)?,
                Err(failure) => failures.push(failure),
            }
        }
        failure::all(failures)
    }
}
