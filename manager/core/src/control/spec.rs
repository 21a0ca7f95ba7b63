//! Everything about a service's spec: its own rules, which are the model's, and those
//! of its placeholders ([`super::container`]), its ports ([`crate::rules::ports`]) and what it
//! refers to ([`super::files`], [`super::attachment`]).

use super::{container, files};
use crate::rules::{estimate, ports};
use crate::store::Store;
use skep_model::Refusal;
use skep_model::service::ServiceSpec;

/// The largest task template, in bytes: many tasks are made in one transaction.
const TEMPLATE_MAX: usize = 256 * 1024;

/// Checks everything about a spec.
pub(super) fn check(store: &Store, spec: &ServiceSpec) -> Result<(), Refusal> {
    spec.check()?;
    container::check_placeholders(&spec.task_template.container_spec)?;
    files::check(store, &spec.task_template.container_spec)?;
    ports::check(spec)?;
    let size = estimate::spec(&spec.task_template);
    if size > TEMPLATE_MAX {
        return Err(Refusal::TooLarge {
            what: format!("the service's spec (about {size} bytes)"),
            limit: format!("{TEMPLATE_MAX} bytes"),
        });
    }
    Ok(())
}
