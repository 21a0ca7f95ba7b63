//! `skep service rm`.

use crate::client::Client;
use crate::failure::{self, Failure};
use crate::render::output;
use skep_model::request::Mutation;

/// Remove one or more services
#[derive(Debug, clap::Args)]
pub struct Rm {
    /// Names or ids
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

impl Rm {
    /// Removes each; what cannot be removed does not keep the others.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let mut failures = Vec::new();
        for service in self.services {
            match client.mutate(&Mutation::RemoveService { service: service.clone() }).await {
                Ok(_) => output::line(&service)?,
                Err(failure) => failures.push(failure),
            }
        }
        failure::all(failures)
    }
}
