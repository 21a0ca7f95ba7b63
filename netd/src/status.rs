//! `skep-netd status`: what the running one says of itself, for people and for tests.

use anyhow::Context as _;
use skep_model::place::PlaceFaults;
use skep_proto::v1::NetdStatusRequest;
use skep_proto::v1::netd_client::NetdClient;
use std::path::Path;
use std::time::Duration;

/// Until it has answered.
const DEADLINE: Duration = Duration::from_secs(10);

/// Asks the one that serves `socket` and prints one thing a line: a word for what it is, then its value.
pub async fn print(socket: &Path) -> anyhow::Result<()> {
    let mut client = NetdClient::new(skep_host::unix::local_channel(socket));
    let asked = tokio::time::timeout(DEADLINE, client.status(NetdStatusRequest {})).await;
    let status = asked.context("skep-netd does not answer")?.context("cannot ask skep-netd")?.into_inner();
    println!("programmed {}", status.programmed_through);
    status.tasks.iter().for_each(|task| println!("task {task}"));
    println!("operations {}", status.operations);
    println!("overruns {}", status.overruns);
    status.repaired.iter().for_each(|(kind, n)| println!("repaired {kind} {n}"));
    println!("found-by-audit {}", status.repaired_by_audit);
    status.repairs.iter().for_each(|repair| println!("repair {repair}"));
    status.failures.iter().for_each(|failure| println!("failure {failure}"));
    for fault in PlaceFaults::from(status.faults.unwrap_or_default()).faults {
        println!("fault {}: {}", fault.place, fault.reason);
    }
    Ok(())
}
