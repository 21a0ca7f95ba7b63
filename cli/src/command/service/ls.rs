//! `skep service ls`.

use crate::client::Client;
use crate::command::list;
use crate::command::task::ps::without_digest;
use crate::failure::Failure;
use crate::render::listing::{self, Listing, row, short};
use crate::render::ports;
use skep_model::deployment::Deployment;
use skep_model::service::{Service, ServiceMode};
use skep_model::{Kind, Object};
use skep_proto::v1::ServiceStatus;

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
        let listed = client.pages(&query).await?;
        if listed.statuses.len() != listed.objects.len() {
            return Err(Failure::refused("the daemon did not count the tasks of its services: it may be of an older release"));
        }
        let service = |(object, status)| if let Object::Service(service) = object { Some((*service, status)) } else { None };
        let mut services: Vec<Counted> = listed.objects.into_iter().zip(listed.statuses).filter_map(service).collect();
        services.sort_by(|a, b| name(&a.0).cmp(name(&b.0)));
        self.flags.write(&listing(&services))
    }
}

fn name(service: &Service) -> &str {
    &service.spec.spec.annotations.name
}

/// A service, and how many of its tasks run and are wanted.
type Counted = (Service, ServiceStatus);

fn listing(services: &[Counted]) -> Listing {
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
            .map(|(service, status)| {
                let spec = &service.spec.spec;
                row([
                    ("ID", short(service.id.as_str()).into()),
                    ("Name", spec.annotations.name.as_str().into()),
                    ("Mode", if matches!(spec.mode, ServiceMode::Global {}) { "global" } else { "replicated" }.into()),
                    ("Replicas", replicas(service, *status).into()),
                    ("Degraded", service.plan.deployment.as_ref().is_some_and(Deployment::is_degraded).into()),
                    ("Image", without_digest(&spec.task_template.container_spec.image).into()),
                    ("Ports", ports::of_service(service).into()),
                    ("Labels", listing::labels(&spec.annotations.labels)),
                ])
            })
            .collect(),
        labels: services.iter().map(|(service, _)| service.spec.spec.annotations.labels.clone()).collect(),
        quiet: services.iter().map(|(service, _)| short(service.id.as_str()).to_owned()).collect(),
    }
}

fn replicas(service: &Service, status: ServiceStatus) -> String {
    let of = format!("{}/{}", status.running_tasks, status.desired_tasks);
    match (service.spec.spec.mode, service.spec.spec.task_template.placement.max_replicas) {
        (ServiceMode::Replicated { .. }, max @ 1..) => format!("{of} (max {max} per node)"),
        _ => of,
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
        let status = ServiceStatus { running_tasks: 2, desired_tasks: 3 };
        let line = |service: &Service, format: Option<&str>| {
            let text = listing(&[(service.clone(), status)]).render(format, false).expect("a list");
            text.lines().last().unwrap_or_default().to_owned()
        };
        assert!(line(&service, None).contains("2/3 (degraded)"), "{}", line(&service, None));
        assert_eq!(line(&service, Some("{{.Replicas}}")), "2/3");
        let deployment = service.plan.value.deployment.as_mut().expect("the sample has one");
        deployment.completed = 1;
        assert!(!line(&service, None).contains("degraded"), "what completed is not missing");
    }
}
