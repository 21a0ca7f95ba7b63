//! `skep task`, and the lists of tasks that services and nodes share.

mod inspect;
mod ls;
pub mod ps;

use crate::client::Client;
use crate::command::service::logs;
use crate::failure::Failure;
use clap::Subcommand;
use skep_model::task::Task;
use skep_model::{Kind, Object, Refusal};
use skep_proto::request::Query;

/// What can be done with tasks.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Display detailed information on one or more tasks
    Inspect(inspect::Inspect),
    /// Fetch the logs of a task
    Logs(logs::Logs),
    /// List the tasks of all services
    #[command(visible_alias = "list")]
    Ls(ls::Ls),
}

impl Command {
    /// Carries it out.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        match self {
            Self::Inspect(inspect) => inspect.run(client).await,
            Self::Logs(logs) => logs.run_for_task(client).await,
            Self::Ls(ls) => ls.run(client).await,
        }
    }
}

/// A task by its id, a unique prefix of it, or a name that lists and logs show:
/// `SERVICE.SLOT`, `SERVICE.NODE-ID`, or either with `.TASK-ID`. A place has many tasks
/// in time; its name means the one that is wanted, else the newest.
pub async fn find(client: &Client, reference: &str) -> Result<Task, Failure> {
    let missing = Refusal::NotFound { kind: Kind::Task, reference: reference.to_owned() };
    match client.get(Kind::Task, reference).await {
        Ok((Object::Task(task), _)) => return Ok(*task),
        Ok(_) => return Err(Failure::refused("the daemon answered with an object of another kind")),
        Err(failure) if failure.text != missing.to_string() => return Err(failure),
        Err(_) => {}
    }
    let named = Query::List(Kind::Task, vec![("name".to_owned(), reference.to_owned())]);
    let tasks = ps::tasks(client.list(&named).await?);
    named_by(tasks, reference).ok_or_else(|| missing.into())
}

fn named_by(tasks: Vec<Task>, reference: &str) -> Option<Task> {
    let is_it = |task: &Task| ps::name(task) == reference || task.name() == reference;
    let age = |task: &Task| (task.is_wanted(), task.meta.created_at, task.id);
    tasks.into_iter().filter(is_it).max_by_key(age)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;
    use skep_model::{TaskId, TaskState, Time};

    #[test]
    fn a_place_means_the_task_that_is_wanted_there() {
        let now = sample::task();
        let mut newer = Task { id: TaskId::from_random([9; 16]), ..sample::task() };
        newer.plan.value.desired = TaskState::Shutdown;
        newer.meta.created_at = Time(u64::MAX);
        let other = Task { id: TaskId::from_random([8; 16]), slot: 10, ..sample::task() };
        let find = |reference: &str| named_by(vec![newer.clone(), now.clone(), other.clone()], reference).map(|task| task.id);
        assert_eq!((find("web.1"), find("web.10")), (Some(now.id), Some(other.id)));
        assert_eq!(find(&format!("web.1.{}", newer.id)), Some(newer.id));
        assert_eq!((find("web"), find("web.2"), find("web.")), (None, None, None));
        let global = Task { slot: 0, ..sample::task() };
        let node = sample::node().id;
        assert_eq!(named_by(vec![global.clone()], &format!("web.{node}")).map(|task| task.id), Some(global.id));
    }
}
