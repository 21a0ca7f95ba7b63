//! Begins the deployment of a spec that has none.

use crate::leader::turn::draft::Draft;
use crate::rules::deployment;
use crate::rules::wanted::Wanted;
use skep_model::deployment::{DeploymentKind, SET_ASIDE};

/// Every spec version has a deployment; whoever writes a spec begins it, and
/// this is for one that did not, and for one that was set aside.
pub(crate) fn begin(draft: &mut Draft<'_>, wanted: &Wanted) {
    let spec_version = wanted.spec_version();
    if let Some(aside) = draft.deployment().filter(|deployment| deployment.cause.starts_with(SET_ASIDE)) {
        draft.set_deployment(deployment::begin(spec_version, aside.kind, draft.now));
    }
    if draft.deployment().is_none_or(|deployment| deployment.spec_version != spec_version) {
        let kind = if spec_version <= 1 { DeploymentKind::Create } else { DeploymentKind::Update };
        draft.set_deployment(deployment::begin(spec_version, kind, draft.now));
    }
}
