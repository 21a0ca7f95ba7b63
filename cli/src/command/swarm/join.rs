//! `skep swarm join`.

use crate::client::{self, Client};
use crate::failure::Failure;
use crate::flags::{address, choice};
use crate::render::output;
use skep_model::node::Availability;
use skep_proto::v1::{self, Confidential, JoinRequest, Role};
use std::time::Duration;

/// The daemon waits 20 s itself; this leaves it time to say so.
const JOIN_MAX: Duration = Duration::from_secs(40);

/// Join a cluster as a node and/or manager
#[derive(Debug, clap::Args)]
pub struct Join {
    /// Where a manager listens
    #[arg(value_name = "HOST:PORT", required = true)]
    remote: String,
    /// Advertised address (format: <ip|interface>[:port])
    #[arg(long, value_name = "ADDRESS", value_parser = address::advertised)]
    advertise_addr: Option<String>,
    /// Availability of the node (active, pause, drain)
    #[arg(long, default_value = "active", value_parser = choice::availability)]
    availability: Availability,
    /// Address or interface to use for data path traffic (format: <ip|interface>)
    #[arg(long, value_name = "ADDRESS", value_parser = address::data_path)]
    data_path_addr: Option<String>,
    /// Listen address (format: <ip|interface>[:port])
    #[arg(long, default_value = "0.0.0.0:2377", value_name = "ADDRESS", value_parser = address::listened)]
    listen_addr: String,
    /// Token for entry into the swarm
    #[arg(long, required = true)]
    token: String,
}

impl Join {
    /// Joins; the token says in which role.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let request = JoinRequest {
            remote_addrs: vec![self.remote],
            token: Some(Confidential::new(self.token)),
            advertise_addr: self.advertise_addr.unwrap_or_default(),
            listen_addr: self.listen_addr,
            data_path_addr: self.data_path_addr.unwrap_or_default(),
            availability: v1::Availability::from(self.availability).into(),
        };
        let reply = client::call(JOIN_MAX, client.local().join(request)).await?;
        let role = if reply.role() == Role::Manager { "manager" } else { "worker" };
        output::line(format!("This node joined a swarm as a {role}."))
    }
}
