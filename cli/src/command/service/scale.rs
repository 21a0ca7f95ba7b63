//! `skep service scale`.

use super::wait::{Options, Wait};
use crate::client::Client;
use crate::failure::{self, Exit, Failure};
use crate::flags::{duration, number};
use crate::render::output;
use skep_model::request::Mutation;
use std::time::Duration;

/// Scale one or multiple replicated services
#[derive(Debug, clap::Args)]
pub struct Scale {
    /// SERVICE=REPLICAS
    #[arg(required = true, value_parser = parse, value_name = "SERVICE=REPLICAS")]
    targets: Vec<(String, u64)>,
    /// Exit immediately instead of waiting for the service to converge
    #[arg(long, short, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = number::boolean)]
    detach: Option<bool>,
    /// Give up when no task of a service advances for this long (default 10m); the exit code is 5
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    timeout: Option<Duration>,
}

fn parse(text: &str) -> Result<(String, u64), String> {
    let (service, replicas) = text
        .split_once('=')
        .filter(|(service, _)| !service.is_empty())
        .ok_or_else(|| format!("invalid scale specifier {text:?}: write it as SERVICE=REPLICAS"))?;
    let replicas = number::replicas(replicas).map_err(|error| format!("invalid replicas of {service}: {error}"))?;
    Ok((service.to_owned(), replicas))
}

impl Scale {
    /// Changes all at once, then waits for each; one that fails does not keep the others.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let (mut outcomes, mut failures) = (Vec::new(), Vec::new());
        let options = Options { detach: self.detach.unwrap_or_default(), quiet: false, timeout: self.timeout };
        let mut wait = Wait::new(client, options)?;
        for (service, replicas) in self.targets {
            match wait.change(&Mutation::ScaleService { service: service.clone(), replicas }).await {
                Ok(outcome) => {
                    output::line(format!("{service} scaled to {replicas}"))?;
                    outcomes.push(outcome);
                }
                Err(failure) if failure.exit == Exit::Interrupted => return Err(failure),
                Err(failure) => failures.push(failure),
            }
        }
        for outcome in outcomes {
            match wait.verdict(&outcome).await {
                Ok(()) => {}
                // Ctrl-C is for all of them.
                Err(failure) if failure.exit == Exit::Detached => break,
                Err(failure) => failures.push(failure),
            }
        }
        failure::all(failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_service_and_a_number() {
        assert_eq!(parse("web=3"), Ok(("web".into(), 3)));
        for wrong in ["web", "web=", "web=x", "web=-1", "web=100001", "=3"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
