//! `skep task inspect`.

use super::ps::Known;
use crate::client::Client;
use crate::command::network::known::Networks;
use crate::failure::{self, Failure};
use crate::render::{inspect, json, output, shape};
use skep_model::{Kind, Object};

/// Display detailed information on one or more tasks
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// Ids
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<String>,
    /// json, or a Go template
    #[arg(long, short)]
    format: Option<String>,
}

impl Inspect {
    /// Prints those that exist, and an error for each other.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let (networks, known) = (Networks::of(client).await?, Known::of(client).await?);
        let (mut found, mut failures) = (Vec::new(), Vec::new());
        for task in &self.tasks {
            match client.get(Kind::Task, task).await {
                Ok((Object::Task(task), _)) => {
                    let mut task_json = json::task(&task, &networks)?;
                    // What of its network does not work, as its node says.
                    task_json["Status"]["Faults"] = known.faults(&task).into();
                    found.push(task_json);
                }
                Ok(_) => failures.push(Failure::refused("the daemon answered with an object of another kind")),
                Err(failure) => failures.push(failure),
            }
        }
        output::write(&inspect::render(&found, shape::TASK, self.format.as_deref())?)?;
        failure::all(failures)
    }
}
