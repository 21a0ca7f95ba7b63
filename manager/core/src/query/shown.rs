//! What of an object leaves the managers: nothing sealed.

use crate::store::StoredObject;
use skep_model::Object;
use skep_model::cluster::ClusterPlan;
use skep_model::sealed::Sealed;

/// The object without what nobody is shown.
pub fn shown(object: &StoredObject) -> Object {
    let mut object = object.to_object();
    match &mut object {
        Object::Secret(secret) => secret.spec.value.versions.iter_mut().for_each(|version| version.sealed = Sealed::default()),
        Object::Config(config) => config.spec.value.versions.iter_mut().for_each(|version| version.sealed = Sealed::default()),
        Object::Cluster(cluster) => {
            let plan = std::mem::take(&mut cluster.plan.value);
            cluster.plan.value = ClusterPlan {
                root_ca: plan.root_ca,
                format: plan.format,
                removed_nodes: plan.removed_nodes,
                ..ClusterPlan::default()
            };
        }
        _ => {}
    }
    object
}
