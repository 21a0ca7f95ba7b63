//! `skep task ls`.

use super::ps;
use crate::client::Client;
use crate::failure::Failure;
use crate::flags::time;
use crate::render::output;
use skep_model::Kind;
use skep_proto::request::Query;

/// List the tasks of all services
#[derive(Debug, clap::Args)]
pub struct Ls {
    #[command(flatten)]
    flags: ps::Flags,
}

impl Ls {
    /// Prints the list; filters such as `node=` and `service=` choose.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        self.flags.check()?;
        let tasks = ps::tasks(client.list(&Query::List(Kind::Task, self.flags.filter.clone())).await?);
        let known = ps::Known::of(client).await?;
        output::write(&self.flags.render(tasks, &known, time::now())?)
    }
}
