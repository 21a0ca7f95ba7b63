//! `skep service inspect`.

use super::pretty;
use crate::client::Client;
use crate::command::inspect;
use crate::command::network::known::Networks;
use crate::failure::{self, Failure};
use crate::render::json;

/// Display detailed information on one or more services
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// Names or ids
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
    #[command(flatten)]
    flags: inspect::Flags,
}

impl Inspect {
    /// Prints those that exist, and an error for each other.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let (mut found, mut failures) = (Vec::new(), Vec::new());
        for service in &self.services {
            match super::get(client, service).await {
                Ok((service, _)) => found.push(service),
                Err(failure) => failures.push(failure),
            }
        }
        let networks = if found.is_empty() { Networks::default() } else { Networks::of(client).await? };
        self.flags.write(&found, |it| pretty::text(it, &networks), |it| json::service(it, &networks))?;
        failure::all(failures)
    }
}
