//! `skep secret update`.

use crate::client::Client;
use crate::command::{input, versioned};
use crate::failure::Failure;
use crate::flags::label;
use skep_model::secret::SECRET_MAX;
use skep_proto::v1::mutate_request::Mutation as Wire;
use skep_proto::v1::{Confidential, UpdateSecret};

/// Give a secret a new version, which its services roll out
#[derive(Debug, clap::Args)]
pub struct Update {
    /// Name or id
    secret: String,
    /// The file with its new value; - is standard input
    #[arg(value_name = "file|-", required_unless_present = "label")]
    file: Option<String>,
    /// Labels in place of those it has
    #[arg(long, short, value_parser = label::parse, value_name = "KEY=VALUE")]
    label: Vec<(String, String)>,
}

impl Update {
    /// Adds a version, replaces the labels, or both.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let value = self.file.as_deref().map(|path| input::value("secret", path, SECRET_MAX)).transpose()?;
        let update = UpdateSecret {
            reference: self.secret.clone(),
            value: value.map(|value| Confidential::new(value.as_slice())),
            labels: versioned::labels(&self.label),
        };
        let outcome = client.mutate_wire(Wire::UpdateSecret(update)).await?;
        versioned::updated(&self.secret, &outcome)
    }
}
