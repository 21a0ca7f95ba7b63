//! `skep config update`.

use crate::client::Client;
use crate::command::{input, versioned};
use crate::failure::Failure;
use crate::flags::label;
use skep_model::config::CONFIG_MAX;
use skep_proto::v1::UpdateConfigValue;
use skep_proto::v1::mutate_request::Mutation as Wire;

/// Give a config a new version, which its services roll out
#[derive(Debug, clap::Args)]
pub struct Update {
    /// Name or id
    config: String,
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
        let value = self.file.as_deref().map(|path| input::value("config", path, CONFIG_MAX)).transpose()?;
        let update = UpdateConfigValue {
            reference: self.config.clone(),
            value: value.map(|value| value.to_vec()),
            labels: versioned::labels(&self.label),
        };
        let outcome = client.mutate_wire(Wire::UpdateConfig(update)).await?;
        versioned::updated(&self.config, &outcome)
    }
}
