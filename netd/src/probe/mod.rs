//! Finds out whether this node's networks work, by using them as tasks do.
//!
//! What there is to ask is decided in `skep-netd-core`; here it is asked, from the
//! namespaces of tasks and with nothing that would have to listen elsewhere: other
//! nodes and the backends of services are sent echoes, names are asked of the
//! server that the task has. Every question gets a row, also when time runs out.

mod echo;
mod name;
#[cfg(test)]
mod tests;

use crate::dns::NameServer;
use echo::{Echo, SMALL};
use futures_util::{StreamExt as _, stream};
use skep_netd_core::{Namespace, Probe, ProbeQuestion};
use skep_proto::v1::NetdProbeRow;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Questions that are asked at the same time.
const ASKING_MAX: usize = 32;
/// How long the answer to one may take.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Echoes to one virtual address.
const ECHOES_MAX: usize = 64;

/// Questions, and where to ask them.
#[derive(Debug)]
pub struct Plan {
    /// Each with the namespace; none = the node's. They stay as long as the plan
    /// does, so it must not be kept.
    pub probes: Vec<(Probe, Option<Arc<OwnedFd>>)>,
    /// Who answers names.
    pub server: NameServer,
}

/// Asks everything within a time.
pub async fn run(plan: Plan, timeout: Duration) -> Vec<NetdProbeRow> {
    let until = Instant::now() + timeout;
    let Plan { probes, server } = plan;
    let rows = probes.into_iter().map(|(probe, namespace)| ask(probe, namespace, server.clone(), until));
    stream::iter(rows).buffered(ASKING_MAX).collect().await
}

async fn ask(probe: Probe, namespace: Option<Arc<OwnedFd>>, server: NameServer, until: Instant) -> NetdProbeRow {
    let until = until.min(Instant::now() + ANSWER_MAX);
    let answered = match tokio::time::timeout_at(until, answer(&probe, namespace.as_deref(), &server, until)).await {
        Ok(answered) => answered,
        Err(_) => Err("no answer".to_owned()),
    };
    let (took, error) = match answered {
        Ok(took) => (took, String::new()),
        Err(error) => (Duration::ZERO, error),
    };
    NetdProbeRow {
        network: probe.network,
        question: probe.question.name().to_owned(),
        about: probe.about,
        error,
        micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    }
}

async fn answer(probe: &Probe, namespace: Option<&OwnedFd>, server: &NameServer, until: Instant) -> Result<Duration, String> {
    let open = |target| Echo::open(namespace.map(|fd| fd.as_fd()), target, random_id());
    match (&probe.question, probe.from) {
        (ProbeQuestion::Reach(target) | ProbeQuestion::Forward(target), _) => {
            let asked = async { open(*target)?.ask(SMALL, until).await };
            asked.await.map_err(|error: io::Error| format!("{target}: {}", said(&error)))
        }
        (ProbeQuestion::Mtu(target, size), _) => {
            let asked = async { open(*target)?.ask(*size, until).await };
            asked.await.map_err(|error: io::Error| format!("{size} bytes to {target}: {}", said(&error)))
        }
        (ProbeQuestion::Vip(target, n_backends), _) => {
            // Each is a connection of its own, and they go to the backends in turn.
            let n_echoes = (n_backends * 2).min(ECHOES_MAX);
            let mut slowest = Duration::ZERO;
            for n in 1..=n_echoes {
                let asked = async { open(*target)?.ask(SMALL, until).await };
                let failed = |error: io::Error| format!("{target}, connection {n} of {n_echoes}: {}", said(&error));
                slowest = slowest.max(asked.await.map_err(failed)?);
            }
            Ok(slowest)
        }
        (ProbeQuestion::Dns(name), Namespace::Task(task)) => {
            let Some(namespace) = namespace else { return Err("the task has no namespace".to_owned()) };
            name::check(name, task, namespace.as_fd(), server).await
        }
        (ProbeQuestion::Dns(_), Namespace::Node) => Err("names are answered to tasks only".to_owned()),
    }
}

fn said(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE) => "the packet is too large for a link on the way".to_owned(),
        _ if error.kind() == io::ErrorKind::TimedOut => "no answer".to_owned(),
        _ => error.to_string(),
    }
}

/// A number that no other conversation is likely to have.
fn random_id() -> u16 {
    u16::from_be_bytes(skep_host::chance::bytes())
}
