//! `skep service inspect`.

use super::pretty;
use crate::client::Client;
use crate::command::inspect;
use crate::command::network::known::{self, Networks};
use crate::command::node;
use crate::command::task::ps::tasks;
use crate::failure::{self, Failure};
use crate::flags::time;
use crate::render::shape;
use skep_docker::Service;
use skep_model::deployment::Deployment;
use skep_proto::request::Query;
use std::collections::BTreeMap;

/// Display detailed information on one or more services
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// Names or ids
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
    #[command(flatten)]
    flags: inspect::Flags,
}

impl Inspect {
    /// Prints those that exist, and an error for each other.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let (mut found, mut failures) = (Vec::new(), Vec::new());
        for service in &self.services {
            match super::get(client, service).await {
                Ok((service, _)) => found.push(service),
                Err(failure) => failures.push(failure),
            }
        }
        let networks = if found.is_empty() { Networks::default() } else { known::networks(client).await? };
        // Only the text for people counts tasks.
        let (mut counted, now) = (Vec::new(), time::now());
        for service in found {
            let query = Query::TasksOfService(service.id.to_string(), Vec::new());
            let tasks = if self.flags.is_pretty() { tasks(client.list(&query).await?) } else { Vec::new() };
            counted.push((service, tasks));
        }
        let names_nodes = |it: &Deployment| !it.stragglers.is_empty() || !it.lost_nodes.is_empty();
        let has_nodes = counted.iter().any(|(it, _)| it.plan.deployment.iter().any(names_nodes));
        let nodes = if has_nodes { node::names(client).await? } else { BTreeMap::new() };
        self.flags.write(
            &counted,
            shape::SERVICE,
            |(service, tasks)| pretty::text(service, tasks, &networks, &nodes, now),
            |(service, _)| Service::of(service, &networks),
        )?;
        failure::all(failures)
    }
}
