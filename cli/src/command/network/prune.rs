//! `skep network prune`.

use super::ls::used;
use crate::client::Client;
use crate::command::confirm;
use crate::failure::{self, Failure};
use crate::flags::{filter, time};
use crate::render::output;
use skep_model::Time;
use skep_model::filter::has_label;
use skep_model::network::Network;
use skep_model::request::Mutation;

const WARNING: &str = "WARNING! This will remove all networks not used by at least one service.";

/// Remove all unused networks
#[derive(Debug, clap::Args)]
pub struct Prune {
    /// Provide filter values (label=, label!=, until=)
    #[arg(long, value_parser = filter::parse, value_name = "KEY=VALUE")]
    filter: Vec<(String, String)>,
    /// Do not prompt for confirmation
    #[arg(long, short)]
    force: bool,
}

impl Prune {
    /// Asks, then removes what no service asks for; what is taken into use
    /// meanwhile is refused by the managers.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let filters = check(&self.filter, time::now())?;
        let mut warning = WARNING.to_owned();
        if !self.filter.is_empty() {
            warning.push_str("\n\n  Items to be pruned will be filtered with:");
            self.filter.iter().for_each(|(key, value)| warning.push_str(&format!("\n  - {key}={value}")));
            warning.push('\n');
        }
        if !self.force && !confirm::ask(&warning)? {
            return Err(Failure::refused("network prune has been cancelled"));
        }
        let used = used(client).await?;
        let (mut removed, mut failures) = (Vec::new(), Vec::new());
        for network in super::all(client).await? {
            if used.contains(network.id.as_str()) || !filters.iter().all(|filter| filter.accepts(&network)) {
                continue;
            }
            match client.mutate(&Mutation::RemoveNetwork { network: network.id.to_string() }).await {
                Ok(_) => removed.push(network.spec.value.annotations.name),
                Err(failure) => failures.push(failure),
            }
        }
        if !removed.is_empty() {
            output::line(format!("Deleted Networks:\n{}\n", removed.join("\n")))?;
        }
        failure::all(failures)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Filter {
    Label(String),
    NotLabel(String),
    MadeBefore(Time),
}

fn check(given: &[(String, String)], now: Time) -> Result<Vec<Filter>, Failure> {
    let filter = |(key, value): &(String, String)| match key.as_str() {
        "label" => Ok(Filter::Label(value.clone())),
        "label!" => Ok(Filter::NotLabel(value.clone())),
        "until" => Ok(Filter::MadeBefore(time::parse(value, now).map_err(Failure::usage)?)),
        _ => Err(Failure::usage(format!("invalid filter '{key}': network prune knows label, label! and until"))),
    };
    given.iter().map(filter).collect()
}

impl Filter {
    fn accepts(&self, network: &Network) -> bool {
        let labels = &network.spec.annotations.labels;
        match self {
            Self::Label(wanted) => has_label(labels, wanted),
            Self::NotLabel(unwanted) => !has_label(labels, unwanted),
            Self::MadeBefore(time) => network.meta.created_at < *time,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;

    #[test]
    fn what_is_pruned_can_be_narrowed() {
        let table =
            [("label=tier", true), ("label!=tier", false), ("label=tier=back", false), ("until=5s", true), ("until=60s", false)];
        for (text, expected) in table {
            let now = Time(60_000_000_000);
            let filters = check(&[filter::parse(text).expect(text)], now).expect(text);
            assert_eq!(filters[0].accepts(&sample::network()), expected, "{text}");
        }
        assert!(check(&[("name".into(), "x".into())], Time(0)).is_err());
    }
}
