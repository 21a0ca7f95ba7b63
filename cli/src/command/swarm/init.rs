//! `skep swarm init`.

use crate::client::{self, Client};
use crate::failure::Failure;
use crate::flags::{address, choice, duration, number, subnet};
use crate::render::output;
use ipnet::IpNet;
use skep_model::cluster::{BARRIER_TIMEOUTS, DATA_PATH_PORTS};
use skep_model::node::Availability;
use skep_proto::v1::{self, InitReply, InitRequest};
use std::time::Duration;

/// Until the new manager leads.
const INIT_MAX: Duration = Duration::from_secs(60);

/// Make this node the first manager of a new cluster
#[derive(Debug, clap::Args)]
pub struct Init {
    /// Advertised address (format: <ip|interface>[:port])
    #[arg(long, value_name = "ADDRESS", value_parser = address::advertised)]
    advertise_addr: Option<String>,
    /// Enable manager autolocking (requiring an unlock key to start a stopped manager)
    #[arg(long)]
    autolock: bool,
    /// Availability of the node (active, pause, drain)
    #[arg(long, default_value = "active", value_parser = choice::availability)]
    availability: Availability,
    /// Longest wait for nodes to program a task's network, at each change (100ms - 1m) [default: 5s]
    #[arg(long, value_parser = barrier_timeout, value_name = "DURATION")]
    barrier_timeout: Option<Duration>,
    /// Validity period for node certificates (ns|us|ms|s|m|h) [default: 2160h0m0s]
    #[arg(long, value_parser = duration::parse)]
    cert_expiry: Option<Duration>,
    /// Address or interface to use for data path traffic (format: <ip|interface>)
    #[arg(long, value_name = "ADDRESS", value_parser = address::data_path)]
    data_path_addr: Option<String>,
    /// Port number to use for data path traffic (1024 - 49151); 0 is the default port 4789
    #[arg(long, default_value_t = 0, value_parser = data_path_port)]
    data_path_port: u32,
    /// Default address pool in CIDR format
    #[arg(long, value_delimiter = ',', value_parser = subnet::parse, value_name = "NET")]
    default_addr_pool: Vec<IpNet>,
    /// Default address pool subnet mask length [default: 20]
    #[arg(long, value_name = "LENGTH", value_parser = number::mask_length)]
    default_addr_pool_mask_length: Option<u32>,
    /// Dispatcher heartbeat period (ns|us|ms|s|m|h) [default: 500ms]
    #[arg(long, value_parser = duration::parse)]
    dispatcher_heartbeat: Option<Duration>,
    /// Force create a new cluster from current state
    #[arg(long)]
    force_new_cluster: bool,
    /// Listen address (format: <ip|interface>[:port])
    #[arg(long, default_value = "0.0.0.0:2377", value_name = "ADDRESS", value_parser = address::listened)]
    listen_addr: String,
    /// Number of log entries between Raft snapshots [default: 10000]
    #[arg(long, value_parser = number::positive, value_name = "N")]
    snapshot_interval: Option<u64>,
    /// Task history retention limit [default: 5]
    #[arg(long, allow_negative_numbers = true, value_parser = number::history, value_name = "N")]
    task_history_limit: Option<i64>,
}

impl Init {
    /// Makes the cluster and says how others join it.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let request = self.request();
        let reply = client::call(INIT_MAX, client.local().init(request)).await?;
        output::write(&text(&reply)?)
    }

    fn request(self) -> InitRequest {
        InitRequest {
            advertise_addr: self.advertise_addr.unwrap_or_default(),
            listen_addr: self.listen_addr,
            data_path_addr: self.data_path_addr.unwrap_or_default(),
            data_path_port: self.data_path_port,
            default_addr_pool: self.default_addr_pool.iter().map(ToString::to_string).collect(),
            default_addr_pool_mask_length: self.default_addr_pool_mask_length.unwrap_or(0),
            autolock: self.autolock,
            availability: v1::Availability::from(self.availability).into(),
            cert_expiry: self.cert_expiry.map(nanos),
            heartbeat_period: self.dispatcher_heartbeat.map(nanos),
            task_history_limit: self.task_history_limit,
            snapshot_interval: self.snapshot_interval,
            max_snapshots: None,
            force_new_cluster: self.force_new_cluster,
            barrier_timeout: self.barrier_timeout.map(nanos),
        }
    }
}

/// Nanoseconds, as messages have them.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A duration that the managers accept for the barrier.
pub fn barrier_timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration::parse(text)?;
    if BARRIER_TIMEOUTS.contains(&timeout) {
        return Ok(timeout);
    }
    let [min, max] = [BARRIER_TIMEOUTS.start(), BARRIER_TIMEOUTS.end()].map(|bound| duration::print(*bound));
    Err(format!("it must be between {min} and {max}"))
}

fn data_path_port(text: &str) -> Result<u32, String> {
    match text.parse::<u16>() {
        Ok(0) => Ok(0),
        Ok(port) if DATA_PATH_PORTS.contains(&port) => Ok(port.into()),
        _ => {
            let (min, max) = (DATA_PATH_PORTS.start(), DATA_PATH_PORTS.end());
            Err(format!("invalid port {text:?}: a data path port is between {min} and {max}, or 0 for 4789"))
        }
    }
}

fn text(reply: &InitReply) -> Result<String, Failure> {
    let token = reply.worker_token.as_ref().map(|token| token.text()).transpose()?.unwrap_or_default();
    let mut text = format!(
        "Swarm initialized: current node ({}) is now a manager.\n\n\
         To add a worker to this swarm, run the following command:\n\n    skep swarm join --token {token} {}\n\n\
         To add a manager to this swarm, run 'skep swarm join-token manager' and follow the instructions.\n\n",
        reply.node_id, reply.address
    );
    if let Some(key) = &reply.unlock_key {
        text.push_str(&unlock_key_text(key.text()?));
    }
    Ok(text)
}

/// What is said with every new unlock key.
pub fn unlock_key_text(key: &str) -> String {
    format!(
        "To unlock a swarm manager after it restarts, run the `skep swarm unlock`\ncommand and provide the following key:\n\n    {key}\n\n\
         Remember to store this key in a password manager, since without it you\nwill not be able to restart the manager.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, FromArgMatches as _};
    use expect_test::expect;
    use skep_proto::v1::Confidential;

    #[test]
    fn a_barriers_timeout_is_asked_for_only_if_it_is_given() {
        let request = |words: &[&str]| {
            let matches = Init::augment_args(clap::Command::new("init")).try_get_matches_from(words)?;
            Init::from_arg_matches(&matches).map(Init::request)
        };
        assert_eq!(request(&["init"]).expect("no flag").barrier_timeout, None);
        let asked = request(&["init", "--barrier-timeout", "100ms"]).expect("the shortest");
        assert_eq!(asked.barrier_timeout, Some(100_000_000));
        assert_eq!(request(&["init", "--barrier-timeout", "1m"]).expect("the longest").barrier_timeout, Some(60_000_000_000));
    }

    #[test]
    fn a_new_cluster_says_how_to_join_it() {
        let reply = InitReply {
            node_id: "node1".into(),
            worker_token: Some(Confidential::new("SWMTKN-1-a-b")),
            manager_token: Some(Confidential::new("SWMTKN-1-a-c")),
            unlock_key: Some(Confidential::new("SWMKEY-1-x")),
            address: "10.0.0.1:2377".into(),
            cluster_id: "cluster1".into(),
        };
        expect![[r#"
            Swarm initialized: current node (node1) is now a manager.

            To add a worker to this swarm, run the following command:

                skep swarm join --token SWMTKN-1-a-b 10.0.0.1:2377

            To add a manager to this swarm, run 'skep swarm join-token manager' and follow the instructions.

            To unlock a swarm manager after it restarts, run the `skep swarm unlock`
            command and provide the following key:

                SWMKEY-1-x

            Remember to store this key in a password manager, since without it you
            will not be able to restart the manager.
        "#]]
        .assert_eq(&text(&reply).expect("text"));
    }
}
