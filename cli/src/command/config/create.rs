//! `skep config create`.

use crate::client::Client;
use crate::command::input;
use crate::failure::Failure;
use crate::flags::label;
use crate::render::output;
use skep_model::config::CONFIG_MAX;
use skep_model::name::check_secret_name;
use skep_proto::v1::mutate_request::Mutation as Wire;
use skep_proto::v1::{Annotations, CreateConfig};

/// Create a config from a file or STDIN
#[derive(Debug, clap::Args)]
pub struct Create {
    /// Its name
    #[arg(value_name = "CONFIG")]
    name: String,
    /// The file with its value; - is standard input
    #[arg(value_name = "file|-")]
    file: String,
    /// Config labels
    #[arg(long, short, value_parser = label::parse, value_name = "KEY=VALUE")]
    label: Vec<(String, String)>,
}

impl Create {
    /// Creates it.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        check_secret_name("config name", &self.name)?;
        let value = input::value("config", &self.file, CONFIG_MAX)?;
        let create = CreateConfig {
            annotations: Some(Annotations { name: self.name, labels: label::map(&self.label) }),
            value: value.to_vec(),
        };
        let outcome = client.mutate_wire(Wire::CreateConfig(create)).await?;
        output::line(outcome.id.as_str())
    }
}
