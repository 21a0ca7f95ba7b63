//! `skep service ls`.

use crate::client::Client;
use crate::command::list;
use crate::command::task::ps::{tasks, without_digest};
use crate::failure::Failure;
use crate::render::listing::{self, Listing, row, short};
use crate::render::ports;
use skep_model::deployment::Deployment;
use skep_model::service::{Service, ServiceMode};
use skep_model::task::Task;
use skep_model::{Kind, Object, ServiceId, TaskState};
use skep_proto::request::Query;
use std::collections::BTreeMap;

/// List services
#[derive(Debug, clap::Args)]
pub struct Ls {
    #[command(flatten)]
    flags: list::Flags,
}

impl Ls {
    /// Prints the list.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let query = self.flags.query(Kind::Service)?;
        let objects = client.list(&query).await?;
        let mut services: Vec<Service> = objects
            .into_iter()
            .filter_map(|object| if let Object::Service(service) = object { Some(*service) } else { None })
            .collect();
        services.sort_by(|a, b| name(a).cmp(name(b)));
        let tasks = tasks(client.list(&Query::List(Kind::Task, Vec::new())).await?);
        self.flags.write(&listing(&services, &counts(&tasks)))
    }
}

fn name(service: &Service) -> &str {
    &service.spec.spec.annotations.name
}

/// How many tasks of a service run, and how many a global service should have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    running: u64,
    desired: u64,
}

fn counts(tasks: &[Task]) -> BTreeMap<ServiceId, Count> {
    let mut counts = BTreeMap::<ServiceId, Count>::new();
    for task in tasks {
        let count = counts.entry(task.service_id).or_default();
        count.running += u64::from(task.is_wanted() && task.status.state == TaskState::Running);
        count.desired += u64::from(task.is_wanted());
    }
    counts
}

fn listing(services: &[Service], counts: &BTreeMap<ServiceId, Count>) -> Listing {
    Listing {
        columns: "{{.ID}}\t{{.Name}}\t{{.Mode}}\t{{.Replicas}}{{if .Degraded}} (degraded){{end}}\t{{.Image}}\t{{.Ports}}",
        headers: &[
            ("ID", "ID"),
            ("Name", "NAME"),
            ("Mode", "MODE"),
            ("Replicas", "REPLICAS"),
            ("Degraded", ""),
            ("Image", "IMAGE"),
            ("Ports", "PORTS"),
            ("Labels", "LABELS"),
        ],
        raw: &[
            ("id", "ID"),
            ("name", "Name"),
            ("mode", "Mode"),
            ("replicas", "Replicas"),
            ("image", "Image"),
            ("ports", "Ports"),
        ],
        rows: services
            .iter()
            .map(|service| {
                let spec = &service.spec.spec;
                let count = counts.get(&service.id).copied().unwrap_or_default();
                row([
                    ("ID", short(service.id.as_str()).into()),
                    ("Name", spec.annotations.name.as_str().into()),
                    ("Mode", if matches!(spec.mode, ServiceMode::Global {}) { "global" } else { "replicated" }.into()),
                    ("Replicas", replicas(service, count).into()),
                    ("Degraded", service.plan.deployment.as_ref().is_some_and(Deployment::is_degraded).into()),
                    ("Image", without_digest(&spec.task_template.container_spec.image).into()),
                    ("Ports", ports::of_service(service).into()),
                    ("Labels", listing::labels(&spec.annotations.labels)),
                ])
            })
            .collect(),
        labels: services.iter().map(|service| service.spec.spec.annotations.labels.clone()).collect(),
        quiet: services.iter().map(|service| short(service.id.as_str()).to_owned()).collect(),
    }
}

fn replicas(service: &Service, count: Count) -> String {
    match service.spec.spec.mode {
        ServiceMode::Global {} => format!("{}/{}", count.running, count.desired),
        ServiceMode::Replicated { replicas } => match service.spec.spec.task_template.placement.max_replicas {
            0 => format!("{}/{replicas}", count.running),
            max => format!("{}/{replicas} (max {max} per node)", count.running),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;
    use skep_model::deployment::DeploymentState;

    #[test]
    fn a_service_that_fell_is_degraded_in_its_line_and_in_no_column_of_dockers() {
        let mut service = sample::service();
        let deployment = service.plan.value.deployment.as_mut().expect("the sample has one");
        (deployment.state, deployment.running) = (DeploymentState::Converged, 2);
        let counts = BTreeMap::from([(service.id, Count { running: 2, desired: 3 })]);
        let line = |service: &Service, format: Option<&str>| {
            let text = listing(std::slice::from_ref(service), &counts).render(format, false).expect("a list");
            text.lines().last().unwrap_or_default().to_owned()
        };
        assert!(line(&service, None).contains("2/3 (degraded)"), "{}", line(&service, None));
        assert_eq!(line(&service, Some("{{.Replicas}}")), "2/3");
        let deployment = service.plan.value.deployment.as_mut().expect("the sample has one");
        deployment.completed = 1;
        assert!(!line(&service, None).contains("degraded"), "what completed is not missing");
    }
}
