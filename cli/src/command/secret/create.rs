//! `skep secret create`.

use crate::client::Client;
use crate::command::input;
use crate::failure::Failure;
use crate::flags::label;
use crate::render::output;
use skep_model::name::check_secret_name;
use skep_model::secret::SECRET_MAX;
use skep_proto::v1::mutate_request::Mutation as Wire;
use skep_proto::v1::{Annotations, Confidential, CreateSecret};

/// Create a secret from a file or STDIN as content
#[derive(Debug, clap::Args)]
pub struct Create {
    /// Its name
    #[arg(value_name = "SECRET")]
    name: String,
    /// The file with its value; - is standard input
    #[arg(value_name = "file|-")]
    file: String,
    /// Secret labels
    #[arg(long, short, value_parser = label::parse, value_name = "KEY=VALUE")]
    label: Vec<(String, String)>,
}

impl Create {
    /// Creates it; the value is in buffers that are zeroized.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        check_secret_name("secret name", &self.name)?;
        let value = input::value("secret", &self.file, SECRET_MAX)?;
        let create = CreateSecret {
            annotations: Some(Annotations { name: self.name, labels: label::map(&self.label) }),
            value: Some(Confidential::new(value.as_slice())),
        };
        let outcome = client.mutate_wire(Wire::CreateSecret(create)).await?;
        output::line(outcome.id.as_str())
    }
}
