//! How large what is proposed will be once it is encoded, without encoding it.

use crate::transaction::Write;
use skep_model::Object;
use skep_model::network::Attachment;
use skep_model::service::TaskSpec;
use std::collections::BTreeMap;

/// Roughly how many bytes a write has when encoded, on the high side.
pub(crate) fn write(write: &Write) -> usize {
    match write {
        Write::Create(Object::Task(task)) => {
            700 + spec(&task.spec) + task.ports.len() * 16 + task.networks.iter().map(attachment).sum::<usize>()
        }
        Write::TaskStatus(_, status) => {
            300 + status.error.len() + status.message.len() + status.log_tail.iter().map(|line| line.len() + 4).sum::<usize>()
        }
        Write::ServiceSpec(_, record) => {
            2_000
                + spec(&record.spec.task_template)
                + record.previous.as_ref().map_or(0, |previous| spec(&previous.task_template))
        }
        _ => 300,
    }
}

fn attachment(attachment: &Attachment) -> usize {
    96 + attachment.aliases.iter().map(|alias| alias.len() + 4).sum::<usize>()
}

/// Roughly how many bytes the spec of a task has when encoded, on the high side.
pub(crate) fn spec(spec: &TaskSpec) -> usize {
    let list = |list: &[String]| list.iter().map(|text| text.len() + 4).sum::<usize>();
    let container = &spec.container_spec;
    let map = |map: &BTreeMap<String, String>| map.iter().map(|(key, value)| key.len() + value.len() + 8).sum::<usize>();
    600 + container.image.len()
        + [&container.hostname, &container.dir, &container.user, &container.stop_signal]
            .map(|text| text.len())
            .iter()
            .sum::<usize>()
        + list(&container.command)
        + list(&container.args)
        + list(&container.env)
        + list(&container.groups)
        + list(&container.capability_add)
        + list(&container.capability_drop)
        + list(&spec.placement.constraints)
        + list(&spec.placement.spread)
        + spec.placement.platforms.iter().map(|platform| 8 + platform.os.len() + platform.architecture.len()).sum::<usize>()
        + map(&container.labels)
        + map(&container.sysctls)
        + container.mounts.iter().map(|mount| 64 + mount.source.len() + mount.target.len()).sum::<usize>()
        + container.secrets.iter().map(|secret| 96 + secret.name.len() + secret.file.name.len()).sum::<usize>()
        + container.configs.iter().map(|config| 96 + config.name.len() + config.file.name.len()).sum::<usize>()
        + container.hosts.iter().map(|host| 16 + host.address.len() + host.name.len()).sum::<usize>()
        + container.ulimits.len() * 48
        + container.healthcheck.as_ref().map_or(0, |health| 96 + list(&health.test))
        + spec.networks.iter().map(|request| 40 + request.target.len() + list(&request.aliases)).sum::<usize>()
        + list(&container.dns.nameservers)
        + list(&container.dns.search)
        + list(&container.dns.options)
}
