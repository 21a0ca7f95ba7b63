//! The names of one task on its networks.

use crate::store::Store;
use serde_json::{Value, json};
use skep_model::task::Task;
use skep_template::Template;

/// How many characters of a container's id are a name of it, as in Docker.
const SHORT_ID: usize = 12;

/// The container's name, its short id, and its host name if the user set one. A host
/// name whose placeholders cannot be filled in names nothing: the task will not start
/// either.
pub(crate) fn names(store: &Store, task: &Task) -> Vec<String> {
    let mut names = vec![task.name(), task.id.as_str().chars().take(SHORT_ID).collect()];
    let hostname = &task.spec.container_spec.hostname;
    if hostname.contains("{{") {
        names.extend(Template::parse(hostname).and_then(|template| template.render(&context(store, task))).ok());
    } else if !hostname.is_empty() {
        names.push(hostname.clone());
    }
    names
}

/// What placeholders may name, as the node's agent fills them in.
fn context(store: &Store, task: &Task) -> Value {
    let node = task.plan.node.and_then(|node| store.node(node));
    let node_id = task.plan.node.map(|node| node.to_string()).unwrap_or_default();
    let (hostname, platform) =
        node.map(|node| (node.description.hostname.clone(), node.description.platform.clone())).unwrap_or_default();
    let slot = if task.slot == 0 { node_id.clone() } else { task.slot.to_string() };
    json!({
        "Service": { "ID": task.service_id, "Name": task.service_name, "Labels": task.service_labels },
        "Node": {
            "ID": node_id,
            "Hostname": hostname,
            "Platform": { "Architecture": platform.architecture, "OS": platform.os },
        },
        "Task": { "ID": task.id, "Name": task.name(), "Slot": slot },
    })
}
