//! `skep swarm join-token`.

use crate::client::{self, CALL_MAX, Client};
use crate::failure::Failure;
use crate::flags::choice;
use crate::render::output;
use skep_model::node::Role;
use skep_proto::request::Query;
use skep_proto::v1::mutate_request::Mutation as Wire;
use skep_proto::v1::{self, InfoRequest, RotateJoinToken};

/// Manage join tokens
#[derive(Debug, clap::Args)]
pub struct JoinToken {
    /// worker or manager
    #[arg(value_parser = choice::role)]
    role: Role,
    /// Only display token
    #[arg(long, short)]
    quiet: bool,
    /// Rotate join token
    #[arg(long)]
    rotate: bool,
}

impl JoinToken {
    /// Prints a token, after replacing it where that is asked for.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let name = if self.role == Role::Manager { "manager" } else { "worker" };
        if self.rotate {
            let rotate = RotateJoinToken { role: v1::Role::from(self.role).into() };
            client.mutate_wire(Wire::RotateJoinToken(rotate)).await?;
            if !self.quiet {
                output::line(format!("Successfully rotated {name} join token.\n"))?;
            }
        }
        let tokens = client.read(&Query::JoinTokens).await?.join_tokens.unwrap_or_default();
        let token = if self.role == Role::Manager { tokens.manager } else { tokens.worker };
        let token = token.ok_or_else(|| Failure::refused("the daemon's answer has no token"))?;
        if self.quiet {
            return output::line(token.text()?);
        }
        let info = client::call(CALL_MAX, client.local().info(InfoRequest {})).await?;
        let cluster = client.read(&Query::ClusterInfo).await?.cluster_info.unwrap_or_default();
        let own = cluster.manager_addresses.iter().find(|manager| manager.node_id == info.node_id);
        let address = own.or(cluster.manager_addresses.first()).map_or("", |manager| manager.address.as_str());
        output::write(&text(name, token.text()?, address))
    }
}

fn text(role: &str, token: &str, address: &str) -> String {
    format!("To add a {role} to this swarm, run the following command:\n\n    skep swarm join --token {token} {address}\n\n")
}
