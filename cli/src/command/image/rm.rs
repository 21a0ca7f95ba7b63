//! `skep image rm`.

use crate::client::{self, CALL_MAX, Client};
use crate::failure::{self, Failure};
use crate::render::output;
use skep_proto::v1::removed_image::Removed;
use skep_proto::v1::{ImageRemoveReply, ImageRemoveRequest};

/// Remove one or more images
#[derive(Debug, clap::Args)]
pub struct Rm {
    /// References or ids
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Force removal of the image
    #[arg(long, short)]
    force: bool,
}

impl Rm {
    /// Removes each and says what went; what cannot be removed does not keep the others.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let mut failures = Vec::new();
        for image in self.images {
            let request = ImageRemoveRequest { references: vec![image], force: self.force };
            match client::call(CALL_MAX, client.local().image_remove(request)).await {
                Ok(reply) => print(reply)?,
                Err(failure) => failures.push(failure),
            }
        }
        failure::all(failures)
    }
}

fn print(reply: ImageRemoveReply) -> Result<(), Failure> {
    for removed in reply.removed.into_iter().filter_map(|image| image.removed) {
        output::line(match removed {
            Removed::Untagged(name) => format!("Untagged: {name}"),
            Removed::Deleted(id) => format!("Deleted: {id}"),
        })?;
    }
    Ok(())
}
