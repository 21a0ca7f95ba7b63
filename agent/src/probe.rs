//! What this node reaches of others, asked by the leader and answered by the
//! network daemon.

use crate::session::Outbox;
use skep_proto::v1::netd_client::NetdClient;
use skep_proto::v1::{NetdProbe, NetdProbeRow, Probe, ProbeResult};
use std::path::PathBuf;
use std::time::Duration;

/// The most that a manager may ask for.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Hands questions to the network daemon.
#[derive(Clone, Debug)]
pub struct Prober {
    netd: PathBuf,
    outbox: Outbox,
}

impl Prober {
    /// Asks the network daemon that serves the socket `netd`.
    pub fn new(netd: PathBuf, outbox: Outbox) -> Self {
        Self { netd, outbox }
    }

    /// Begins to ask; the answer goes back over the session.
    pub fn probe(&self, probe: Probe) {
        let prober = self.clone();
        tokio::spawn(async move {
            let timeout = Duration::from_nanos(probe.timeout).min(TIMEOUT_MAX);
            let asked = tokio::time::timeout(timeout, prober.ask(probe.networks, timeout)).await;
            let (rows, error) = match asked {
                Ok(Ok(rows)) => (rows, String::new()),
                Ok(Err(error)) => (Vec::new(), error),
                Err(_) => (Vec::new(), format!("the network daemon did not answer within {} s", timeout.as_secs_f64())),
            };
            prober.outbox.probe_result(ProbeResult { probe_id: probe.probe_id, rows, error });
        });
    }

    async fn ask(&self, networks: Vec<String>, timeout: Duration) -> Result<Vec<NetdProbeRow>, String> {
        let mut client =
            NetdClient::new(skep_host::unix::local_channel(&self.netd)).max_decoding_message_size(skep_proto::MESSAGE_MAX);
        // The network daemon is to be done before this side gives up.
        let timeout_ms = u64::try_from(timeout.mul_f32(0.9).as_millis()).unwrap_or(u64::MAX);
        let probed = client.probe(NetdProbe { timeout_ms, networks }).await;
        probed.map(|probed| probed.into_inner().rows).map_err(|status| format!("the network daemon: {}", status.message()))
    }
}
