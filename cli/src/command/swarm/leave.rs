//! `skep swarm leave`.

use crate::client::{self, Client};
use crate::failure::Failure;
use crate::render::output;
use skep_proto::v1::LeaveRequest;
use std::time::Duration;

/// Until tasks have stopped and the others know.
const LEAVE_MAX: Duration = Duration::from_secs(120);

/// Leave the swarm
#[derive(Debug, clap::Args)]
pub struct Leave {
    /// Force this node to leave the swarm, ignoring warnings
    #[arg(long, short)]
    force: bool,
}

impl Leave {
    /// Takes the node that is asked out of its cluster.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        client::call(LEAVE_MAX, client.local().leave_cluster(LeaveRequest { force: self.force })).await?;
        output::line("Node left the swarm.")
    }
}
