//! `skep swarm unlock` and `skep swarm unlock-key`.

use super::init::unlock_key_text;
use crate::client::{self, CALL_MAX, Client};
use crate::command::input;
use crate::failure::Failure;
use crate::render::output;
use skep_proto::v1::{Confidential, InfoRequest, LocalState, UnlockKeyRequest, UnlockRequest};

/// Asks for the key and gives it to the daemon.
pub async fn run(client: &Client) -> Result<(), Failure> {
    let info = client::call(CALL_MAX, client.local().info(InfoRequest {})).await?;
    match info.state() {
        LocalState::Locked => {}
        LocalState::Inactive | LocalState::Unspecified => return Err(Failure::refused("this node is not part of a swarm")),
        _ => return Err(Failure::refused("swarm is not locked")),
    }
    let key = input::hidden_line("Enter unlock key: ")?;
    if key.is_empty() {
        return Err(Failure::refused("no unlock key was given"));
    }
    let request = UnlockRequest { key: Some(Confidential::new(key.as_bytes())) };
    client::call(CALL_MAX, client.local().unlock(request)).await.map(drop)
}

/// Manage the unlock key
#[derive(Debug, clap::Args)]
pub struct UnlockKey {
    /// Only display token
    #[arg(long, short)]
    quiet: bool,
    /// Rotate unlock key
    #[arg(long)]
    rotate: bool,
}

impl UnlockKey {
    /// Prints the key, after replacing it where that is asked for.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let reply = client::call(CALL_MAX, client.local().unlock_key(UnlockKeyRequest { rotate: self.rotate })).await?;
        let key = reply.key.ok_or_else(|| Failure::refused("no unlock key is set"))?;
        if self.quiet {
            return output::line(key.text()?);
        }
        if self.rotate {
            output::line("Successfully rotated manager unlock key.\n")?;
        }
        output::write(&unlock_key_text(key.text()?))
    }
}
