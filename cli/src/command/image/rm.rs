//! `skep image rm`.

use crate::client::{self, CALL_MAX, Client};
use crate::failure::Failure;
use crate::render::output;
use skep_proto::v1::ImageRemoveRequest;
use skep_proto::v1::removed_image::Removed;

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
    /// Removes them and says what went.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let request = ImageRemoveRequest { references: self.images, force: self.force };
        let reply = client::call(CALL_MAX, client.local().image_remove(request)).await?;
        for removed in reply.removed.into_iter().filter_map(|image| image.removed) {
            output::line(match removed {
                Removed::Untagged(name) => format!("Untagged: {name}"),
                Removed::Deleted(id) => format!("Deleted: {id}"),
            })?;
        }
        Ok(())
    }
}
