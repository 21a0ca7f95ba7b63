//! `skep service`: run services and change them.

mod create;
mod image;
mod inspect;
pub mod logs;
mod ls;
mod pretty;
#[cfg(test)]
mod pretty_tests;
mod ps;
mod references;
mod removal;
mod rm;
mod rollback;
mod scale;
mod shared;
mod update;
mod verdict;
mod wait;

use crate::client::Client;
use crate::failure::Failure;
use clap::Subcommand;
use skep_model::service::Service;
use skep_model::{Kind, Object};
use skep_proto::request::Query;

/// What can be done with services.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a new service
    Create(Box<create::Create>),
    /// Display detailed information on one or more services
    Inspect(inspect::Inspect),
    /// Fetch the logs of a service or task
    Logs(logs::Logs),
    /// List services
    #[command(visible_alias = "list")]
    Ls(ls::Ls),
    /// List the tasks of one or more services
    Ps(ps::Ps),
    /// Remove one or more services
    #[command(visible_alias = "remove")]
    Rm(rm::Rm),
    /// Revert changes to a service's configuration
    Rollback(rollback::Rollback),
    /// Scale one or multiple replicated services
    Scale(scale::Scale),
    /// Update a service
    Update(Box<update::Update>),
}

impl Command {
    /// Carries it out.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.run(client).await,
            Self::Inspect(inspect) => inspect.run(client).await,
            Self::Logs(logs) => logs.run(client).await,
            Self::Ls(ls) => ls.run(client).await,
            Self::Ps(ps) => ps.run(client).await,
            Self::Rm(rm) => rm.run(client).await,
            Self::Rollback(rollback) => rollback.run(client).await,
            Self::Scale(scale) => scale.run(client).await,
            Self::Update(update) => update.run(client).await,
        }
    }
}

/// A service by id, name or unique prefix, and the store version it was read at.
pub async fn get(client: &Client, reference: &str) -> Result<(Service, u64), Failure> {
    match client.get(Kind::Service, reference).await? {
        (Object::Service(service), version) => Ok((*service, version)),
        _ => Err(Failure::refused("the daemon answered with an object of another kind")),
    }
}

/// All services.
pub async fn all(client: &Client) -> Result<Vec<Service>, Failure> {
    let objects = client.list(&Query::List(Kind::Service, Vec::new())).await?;
    let service = |object| if let Object::Service(service) = object { Some(*service) } else { None };
    Ok(objects.into_iter().filter_map(service).collect())
}

#[cfg(test)]
mod border_tests;
#[cfg(test)]
pub use tests::{spec_after_update, spec_of_create};

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use skep_model::service::ServiceSpec;

    #[derive(clap::Parser)]
    pub(super) struct Line {
        #[command(subcommand)]
        pub(super) command: Command,
    }

    fn parse(words: &[&str]) -> Command {
        let line = Line::try_parse_from(std::iter::once(&"service").chain(words));
        line.unwrap_or_else(|error| panic!("{words:?}: {error}")).command
    }

    /// The spec that `service create` asks for with these words.
    pub fn spec_of_create(words: &[&str]) -> ServiceSpec {
        let words: Vec<&str> = std::iter::once("create").chain(words.iter().copied()).collect();
        let Command::Create(create) = parse(&words) else { panic!("{words:?} is no create") };
        create.spec().unwrap_or_else(|failure| panic!("{words:?}: {}", failure.text))
    }

    /// The spec that `service update` makes of another one with these words.
    pub fn spec_after_update(before: &ServiceSpec, words: &[&str]) -> ServiceSpec {
        let words: Vec<&str> = ["update", "web"].iter().chain(words).copied().collect();
        let Command::Update(update) = parse(&words) else { panic!("{words:?} is no update") };
        let mut spec = before.clone();
        update.changes.apply(&mut spec, update::Found::default()).unwrap_or_else(|failure| panic!("{words:?}: {}", failure.text));
        spec
    }
}
