//! `skep service ps`.

use crate::client::Client;
use crate::command::task;
use crate::failure::{self, Failure};
use crate::flags::time;
use crate::render::output;
use skep_model::deployment::SET_ASIDE;
use skep_model::{Kind, Object};
use skep_proto::request::Query;

/// List the tasks of one or more services
#[derive(Debug, clap::Args)]
pub struct Ps {
    /// Names or ids
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
    #[command(flatten)]
    flags: task::ps::Flags,
}

impl Ps {
    /// Prints the tasks of all services that exist, and an error for each other.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        self.flags.check()?;
        let (mut tasks, mut failures) = (Vec::new(), Vec::new());
        for service in &self.services {
            match client.list(&Query::TasksOfService(service.clone(), self.flags.filter.clone())).await {
                Ok(objects) => {
                    tasks.extend(task::ps::tasks(objects));
                    warn_if_set_aside(client, service).await?;
                }
                Err(failure) => failures.push(failure),
            }
        }
        if failures.len() < self.services.len() {
            let known = task::ps::Known::of(client).await?;
            output::write(&self.flags.render(tasks, &known, time::now())?)?;
        }
        if failures.is_empty() && self.flags.format.is_none() && !self.flags.quiet {
            self.warn_of_fallen(client).await?;
        }
        failure::all(failures)
    }

    /// Says of services that had converged that they are not what they were.
    async fn warn_of_fallen(&self, client: &Client) -> Result<(), Failure> {
        for reference in &self.services {
            // It may have been removed since; its tasks were printed.
            let Ok((service, _)) = super::get(client, reference).await else { continue };
            let fallen = service.plan.deployment.as_ref().filter(|deployment| deployment.is_degraded());
            if let Some(deployment) = fallen {
                let (name, running, wanted) = (&service.spec.spec.annotations.name, deployment.running, deployment.wanted);
                eprintln!("skep: warning: service {name} is degraded: {running} of {wanted} tasks run");
            }
        }
        Ok(())
    }
}

/// Says of a service that nothing is decided about that this is why nothing happens.
async fn warn_if_set_aside(client: &Client, service: &str) -> Result<(), Failure> {
    // One that was removed while its tasks stop has nothing to say.
    let Ok((Object::Service(found), _)) = client.get(Kind::Service, service).await else { return Ok(()) };
    if let Some(deployment) = found.plan.deployment.as_ref().filter(|deployment| deployment.cause.starts_with(SET_ASIDE)) {
        eprintln!("skep: warning: service {}: {}", found.spec.spec.annotations.name, deployment.cause);
    }
    Ok(())
}
