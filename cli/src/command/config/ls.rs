//! `skep config ls`.

use crate::client::Client;
use crate::command::{list, versioned};
use crate::failure::Failure;
use crate::flags::time;
use skep_model::{Kind, Object};

/// List configs
#[derive(Debug, clap::Args)]
pub struct Ls {
    #[command(flatten)]
    flags: list::Flags,
}

impl Ls {
    /// Prints the list.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let objects = client.list(&self.flags.query(Kind::Config)?).await?;
        let configs = objects
            .into_iter()
            .filter_map(|object| if let Object::Config(config) = object { Some(*config) } else { None })
            .collect();
        self.flags.write(&versioned::listing(configs, time::now()))
    }
}
