//! `skep node ps`.

use crate::client::Client;
use crate::command::task;
use crate::failure::{self, Failure};
use crate::flags::time;
use crate::render::output;
use skep_proto::request::Query;

/// List tasks running on one or more nodes, defaults to current node
#[derive(Debug, clap::Args)]
pub struct Ps {
    /// Host names or ids, or self
    #[arg(default_value = "self", value_name = "NODE")]
    nodes: Vec<String>,
    #[command(flatten)]
    flags: task::ps::Flags,
}

impl Ps {
    /// Prints the tasks of all nodes that exist, and an error for each other.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        self.flags.check()?;
        let (mut tasks, mut failures) = (Vec::new(), Vec::new());
        for node in &self.nodes {
            match self.tasks(client, node).await {
                Ok(found) => tasks.extend(found),
                Err(failure) => failures.push(failure),
            }
        }
        if failures.len() < self.nodes.len() {
            let known = task::ps::Known::of(client).await?;
            output::write(&self.flags.render(tasks, &known, time::now())?)?;
        }
        failure::all(failures)
    }

    async fn tasks(&self, client: &Client, node: &str) -> Result<Vec<skep_model::task::Task>, Failure> {
        let reference = super::reference(client, node).await?;
        Ok(task::ps::tasks(client.list(&Query::TasksOfNode(reference, self.flags.filter.clone())).await?))
    }
}
