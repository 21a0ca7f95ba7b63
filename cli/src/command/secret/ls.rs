//! `skep secret ls`.

use crate::client::Client;
use crate::command::{list, versioned};
use crate::failure::Failure;
use crate::flags::time;
use skep_model::{Kind, Object};

/// List secrets
#[derive(Debug, clap::Args)]
pub struct Ls {
    #[command(flatten)]
    flags: list::Flags,
}

impl Ls {
    /// Prints the list.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let objects = client.list(&self.flags.query(Kind::Secret)?).await?;
        let secrets = objects
            .into_iter()
            .filter_map(|object| if let Object::Secret(secret) = object { Some(*secret) } else { None })
            .collect();
        self.flags.write(&versioned::listing(secrets, time::now()))
    }
}
