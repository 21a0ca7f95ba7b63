//! `skep task inspect`.

use super::ps::Known;
use crate::client::Client;
use crate::command::network::known;
use crate::failure::{self, Failure};
use crate::render::{inspect, output, shape};
use skep_docker::Task;

/// Display detailed information on one or more tasks
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// Names (SERVICE.SLOT) or ids
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<String>,
    /// json, or a Go template
    #[arg(long, short)]
    format: Option<String>,
}

impl Inspect {
    /// Prints those that exist, and an error for each other.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let (networks, nodes) = (known::networks(client).await?, Known::of(client).await?);
        let (mut found, mut failures) = (Vec::new(), Vec::new());
        for task in &self.tasks {
            match super::find(client, task).await {
                // With what of its network does not work, as its node says.
                Ok(task) => found.push(Task::of(&task, &networks, nodes.faults(&task))),
                Err(failure) => failures.push(failure),
            }
        }
        output::write(&inspect::render(&found, shape::TASK, self.format.as_deref())?)?;
        failure::all(failures)
    }
}
