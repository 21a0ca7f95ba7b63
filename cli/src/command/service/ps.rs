//! `skep service ps`.

use crate::client::Client;
use crate::command::task;
use crate::failure::{self, Failure};
use crate::flags::time;
use crate::render::output;
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
                Ok(objects) => tasks.extend(task::ps::tasks(objects)),
                Err(failure) => failures.push(failure),
            }
        }
        if failures.len() < self.services.len() {
            let known = task::ps::Known::of(client).await?;
            output::write(&self.flags.render(tasks, &known, time::now())?)?;
        }
        failure::all(failures)
    }
}
