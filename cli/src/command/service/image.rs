//! Pins a service's image to the digest that its registry gives it now, so that
//! all nodes run the same one, as Swarm does.

use crate::client::Client;
use crate::command::node;
use crate::command::task::ps::{tasks, without_digest};
use skep_model::node::NodeState;
use skep_model::service::ServiceSpec;
use skep_model::task::Task;
use skep_model::{Kind, NodeId, Object};
use skep_proto::request::Query;
use skep_proto::v1::{ImageListRequest, ImageResolveRequest};
use std::collections::BTreeSet;
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
        Ok(Err(_)) | Err(_) if is_everywhere(client, image).await => None,
        Ok(Err(_)) | Err(_) => Some(warning(image)),
    }
}

/// Whether every ready node is known to have the image: the one that is asked by its
/// list, each other one by a task of that image that got as far as to run there.
async fn is_everywhere(client: &Client, image: &str) -> bool {
    let Ok(nodes) = client.list(&Query::List(Kind::Node, Vec::new())).await else { return false };
    let mut missing: BTreeSet<NodeId> = nodes
        .into_iter()
        .filter_map(|object| if let Object::Node(node) = object { Some(node) } else { None })
        .filter(|node| node.status.state == NodeState::Ready)
        .map(|node| node.id)
        .collect();
    if let (Ok(Ok(list)), Ok(own)) =
        (timeout(RESOLVE_MAX, client.local().image_list(ImageListRequest {})).await, node::self_id(client).await)
        && list.into_inner().images.iter().any(|it| it.references.iter().any(|reference| reference == image))
        && let Ok(own) = own.parse()
    {
        missing.remove(&own);
    }
    if !missing.is_empty() {
        let Ok(objects) = client.list(&Query::List(Kind::Task, Vec::new())).await else { return false };
        let ran = |task: &Task| task.status.running_since.is_some() && without_digest(&task.spec.container_spec.image) == image;
        for node in tasks(objects).iter().filter(|task| ran(task)).filter_map(|task| task.plan.node) {
            missing.remove(&node);
        }
    }
    missing.is_empty()
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
