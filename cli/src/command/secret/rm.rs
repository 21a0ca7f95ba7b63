//! `skep secret rm`.

use crate::client::Client;
use crate::command::remove;
use crate::failure::Failure;
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
        remove::each(client, self.secrets, |secret| Mutation::RemoveSecret { secret }).await
    }
}
