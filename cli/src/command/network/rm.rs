//! `skep network rm`.

use crate::client::Client;
use crate::command::confirm;
use crate::failure::{self, Exit, Failure};
use crate::render::output;
use skep_model::request::Mutation;

const INGRESS: &str = "WARNING! Without the routing-mesh network, ports published in ingress mode cannot be reached until \
    there is another one (network create --ingress).";

/// Remove one or more networks
#[derive(Debug, clap::Args)]
pub struct Rm {
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
    /// Do not error if the network does not exist, and do not ask
    #[arg(long, short)]
    force: bool,
}

impl Rm {
    /// Removes each; what cannot be removed does not keep the others.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let mut failures = Vec::new();
        for name in &self.networks {
            match self.remove(client, name).await {
                Ok(true) => output::line(name)?,
                Ok(false) => {}
                Err(failure) => failures.push(failure),
            }
        }
        failure::all(failures)
    }

    /// Whether it was there and is gone.
    async fn remove(&self, client: &Client, name: &str) -> Result<bool, Failure> {
        let network = match super::get(client, name).await {
            Ok(network) => network,
            Err(failure) if self.force && failure.exit == Exit::Refused && failure.text.ends_with("not found") => {
                return Ok(false);
            }
            Err(failure) => return Err(failure),
        };
        if network.spec.ingress && !self.force && !confirm::ask(INGRESS)? {
            return Err(Failure::refused(format!("network {name} was not removed")));
        }
        client.mutate(&Mutation::RemoveNetwork { network: network.id.to_string() }).await?;
        Ok(true)
    }
}
