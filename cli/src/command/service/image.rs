//! Pins a service's image to the digest that its registry gives it now, so that
//! all nodes run the same one, as Swarm does.

use crate::client::Client;
use skep_model::service::ServiceSpec;
use skep_proto::v1::ImageResolveRequest;
use std::time::Duration;
use tokio::time::timeout;

/// The daemon gives the registry 5 s.
const RESOLVE_MAX: Duration = Duration::from_secs(10);

/// Replaces the image by its pinned reference. Where no registry answers, it stays
/// as it is, and the nodes use what they have: that is what the warning, to be
/// shown once the change was taken, is about.
pub async fn pin(client: &Client, spec: &mut ServiceSpec) -> Option<String> {
    let image = &mut spec.task_template.container_spec.image;
    if image.contains('@') {
        return None;
    }
    let mut local = client.local();
    match timeout(RESOLVE_MAX, local.image_resolve(ImageResolveRequest { reference: image.clone() })).await {
        Ok(Ok(reply)) => {
            *image = reply.into_inner().reference;
            None
        }
        // A reference that does not read is refused by the manager, in its words.
        Ok(Err(status)) if status.code() == tonic::Code::InvalidArgument => None,
        Ok(Err(_)) | Err(_) => Some(warning(image)),
    }
}

/// Swarm's words for an image whose digest could not be learned.
fn warning(image: &str) -> String {
    [
        &format!("image {image} could not be accessed on a registry to record"),
        &format!("its digest. Each node will access {image} independently,"),
        "possibly leading to different nodes running different",
        "versions of the image.\n",
    ]
    .join("\n")
}
