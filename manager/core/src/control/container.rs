//! What of a container's spec the cluster must know: the placeholders that its agent
//! fills in. All other rules are the model's.

use super::template;
use skep_model::Refusal;
use skep_model::container::ContainerSpec;

/// Checks that placeholders parse and name what there is.
pub(super) fn check_placeholders(container: &ContainerSpec) -> Result<(), Refusal> {
    template::check("hostname", &container.hostname)?;
    for variable in &container.env {
        let value = variable.split_once('=').map_or("", |(_, value)| value);
        template::check("environment variable", value)?;
    }
    for mount in &container.mounts {
        template::check("mount source", &mount.source)?;
        template::check("mount target", &mount.target)?;
    }
    Ok(())
}
