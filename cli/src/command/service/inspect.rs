//! `skep service inspect`.

use super::pretty;
use crate::client::Client;
use crate::failure::{self, Failure};
use crate::render::{inspect, json, output};

/// Display detailed information on one or more services
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// Names or ids
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
    /// json, or a Go template
    #[arg(long, short, conflicts_with = "pretty")]
    format: Option<String>,
    /// Print the information in a human friendly format
    #[arg(long)]
    pretty: bool,
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
        if self.pretty {
            let texts: Vec<String> = found.iter().map(pretty::text).collect();
            output::write(&texts.join("\n"))?;
        } else {
            let objects = found.iter().map(json::service).collect::<Result<Vec<_>, _>>()?;
            output::write(&inspect::render(&objects, self.format.as_deref())?)?;
        }
        failure::all(failures)
    }
}
