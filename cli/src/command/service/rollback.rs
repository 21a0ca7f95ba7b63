//! `skep service rollback`.

use super::wait::{Options, Wait};
use crate::client::Client;
use crate::failure::Failure;
use crate::flags::duration;
use crate::render::output;
use skep_model::request::Mutation;
use std::time::Duration;

/// Revert changes to a service's configuration
#[derive(Debug, clap::Args)]
pub struct Rollback {
    /// Name or id
    service: String,
    /// Exit immediately instead of waiting for the service to converge
    #[arg(long, short, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = crate::flags::number::boolean)]
    detach: Option<bool>,
    /// Suppress progress output
    #[arg(long, short)]
    quiet: bool,
    /// Give up when no task advances for this long (default 10m); the exit code is 5
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    timeout: Option<Duration>,
}

impl Rollback {
    /// Asks for the previous spec and waits for the verdict.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let options = Options { detach: self.detach.unwrap_or_default(), quiet: self.quiet, timeout: self.timeout };
        let mut wait = Wait::new(client, options)?;
        let outcome = wait.change(&Mutation::RollbackService { service: self.service.clone(), expect: None }).await?;
        output::line(&self.service)?;
        wait.verdict(&outcome).await
    }
}
