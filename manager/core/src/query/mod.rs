//! Answers to whoever only asks: reads, each from one version of the store, and what of its changes a watch is for
//! (`changes.rs`).
//!
//! - A list comes in pages, in the order of ids (`page.rs`), and what it leaves out is said by filters (`filters.rs`).
//! - Nothing sealed leaves: secrets and configs are shown without their values, the cluster without its keys.

mod changes;
mod filters;
mod page;
mod shown;

pub use changes::ChangeFilters;
pub use filters::Filters;
pub use page::{Listed, list, tasks_of_node, tasks_of_service};
pub use shown::shown;

use crate::store::{Store, StoredObject};
use skep_model::{Kind, Object, Refusal};

/// One object by id, name or unique id prefix, as it is shown.
///
/// # Errors
/// If there is none, or several.
pub fn get(store: &Store, kind: Kind, reference: &str) -> Result<Object, Refusal> {
    let object = match kind {
        Kind::Cluster => {
            let cluster = store.cluster().ok_or(Refusal::NotFound { kind, reference: reference.into() })?;
            StoredObject::Cluster(cluster.clone())
        }
        Kind::Node => StoredObject::Node(store.resolve_node(reference)?.clone()),
        Kind::Network => StoredObject::Network(store.resolve_network(reference)?.clone()),
        Kind::Secret => StoredObject::Secret(store.resolve_secret(reference)?.clone()),
        Kind::Config => StoredObject::Config(store.resolve_config(reference)?.clone()),
        Kind::Service => StoredObject::Service(store.resolve_service(reference)?.clone()),
        Kind::Task => StoredObject::Task(store.resolve_task(reference)?.clone()),
    };
    Ok(shown(&object))
}
