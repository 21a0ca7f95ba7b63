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

/// The reference with the tag that it has if none is given, as docker's client sends it.
pub fn with_tag(reference: &str) -> String {
    let name = reference.rsplit('/').next().unwrap_or(reference);
    // What is no reference is refused by the manager as it was given.
    let is_plain = name.bytes().next_back().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if reference.contains('@') || name.contains(':') || !is_plain { reference.to_owned() } else { format!("{reference}:latest") }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_tag_is_the_latest() {
        let table = [
            ("alpine", "alpine:latest"),
            ("alpine:3", "alpine:3"),
            ("registry:5000/team/app", "registry:5000/team/app:latest"),
            ("registry:5000/team/app:1", "registry:5000/team/app:1"),
            ("app@sha256:ab", "app@sha256:ab"),
            ("", ""),
            ("app:", "app:"),
            ("app/", "app/"),
        ];
        for (given, expected) in table {
            assert_eq!(with_tag(given), expected, "{given}");
        }
    }
}
