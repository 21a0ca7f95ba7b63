//! `skep swarm update`.

use super::init::{barrier_timeout, unlock_key_text};
use crate::client::{self, CALL_MAX, Client};
use crate::failure::Failure;
use crate::flags::{duration, number};
use crate::render::output;
use skep_model::cluster::ClusterSpec;
use skep_model::request::Mutation;
use skep_model::{Kind, Object};
use skep_proto::v1::UnlockKeyRequest;
use std::time::Duration;

/// Update the swarm
#[derive(Debug, clap::Args)]
pub struct Update {
    /// Change manager autolocking setting (true|false)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = number::boolean)]
    autolock: Option<bool>,
    /// Longest wait for nodes to program a task's network, at each change (100ms - 1m)
    #[arg(long, value_parser = barrier_timeout, value_name = "DURATION")]
    barrier_timeout: Option<Duration>,
    /// Validity period for node certificates (ns|us|ms|s|m|h)
    #[arg(long, value_parser = duration::parse)]
    cert_expiry: Option<Duration>,
    /// Dispatcher heartbeat period (ns|us|ms|s|m|h)
    #[arg(long, value_parser = duration::parse)]
    dispatcher_heartbeat: Option<Duration>,
    /// Let no task open connections to addresses of its own node (true|false)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = number::boolean)]
    isolate_nodes: Option<bool>,
    /// Number of log entries between Raft snapshots
    #[arg(long, value_parser = number::positive, value_name = "N")]
    snapshot_interval: Option<u64>,
    /// Task history retention limit
    #[arg(long, allow_negative_numbers = true, value_parser = number::history, value_name = "N")]
    task_history_limit: Option<i64>,
}

impl Update {
    /// Changes the settings as they are: they are read again if somebody else was faster.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let attempts = client::Attempts::begin();
        let locks_now = loop {
            let (Object::Cluster(cluster), _) = client.get(Kind::Cluster, "").await? else {
                return Err(Failure::refused("the daemon answered with an object of another kind"));
            };
            let was_locking = cluster.spec.autolock;
            let expect = Some(cluster.spec.version);
            let spec = self.apply(cluster.spec.value);
            let locks_now = spec.autolock && !was_locking;
            match client.mutate(&Mutation::UpdateCluster { expect, spec }).await {
                Err(failure) if attempts.again(&failure) => {}
                decided => break decided.map(|_| locks_now)?,
            }
        };
        output::line("Swarm updated.")?;
        if !locks_now {
            return Ok(());
        }
        let reply = client::call(CALL_MAX, client.local().unlock_key(UnlockKeyRequest { rotate: false })).await?;
        match &reply.key {
            Some(key) => output::write(&format!("\n{}", unlock_key_text(key.text()?))),
            None => {
                Err(Failure::refused("autolock is on, but the daemon has no unlock key yet; ask with `skep swarm unlock-key`"))
            }
        }
    }

    fn apply(&self, mut spec: ClusterSpec) -> ClusterSpec {
        spec.autolock = self.autolock.unwrap_or(spec.autolock);
        spec.barrier_timeout = self.barrier_timeout.unwrap_or(spec.barrier_timeout);
        spec.node_cert_expiry = self.cert_expiry.unwrap_or(spec.node_cert_expiry);
        spec.heartbeat_period = self.dispatcher_heartbeat.unwrap_or(spec.heartbeat_period);
        spec.isolate_nodes = self.isolate_nodes.unwrap_or(spec.isolate_nodes);
        spec.snapshot_interval = self.snapshot_interval.unwrap_or(spec.snapshot_interval);
        spec.task_history_limit = self.task_history_limit.unwrap_or(spec.task_history_limit);
        spec
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, FromArgMatches as _};

    #[test]
    fn a_setting_that_is_not_named_stays() {
        let before = ClusterSpec { barrier_timeout: Duration::from_secs(7), snapshot_interval: 3, ..ClusterSpec::default() };
        let after = |words: &[&str]| {
            let matches = Update::augment_args(clap::Command::new("update")).get_matches_from(words);
            Update::from_arg_matches(&matches).expect("flags").apply(before.clone())
        };
        assert_eq!(after(&["update"]), before);
        let changed = ClusterSpec { barrier_timeout: Duration::from_millis(1500), ..before.clone() };
        assert_eq!(after(&["update", "--barrier-timeout", "1.5s"]), changed);
        let isolated = ClusterSpec { isolate_nodes: true, ..before.clone() };
        assert_eq!((after(&["update", "--isolate-nodes"]), after(&["update", "--isolate-nodes=false"])), (isolated, before));
    }
}
