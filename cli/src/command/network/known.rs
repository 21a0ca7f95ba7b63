//! The cluster's networks, for output that names them or says how long the prefix
//! of an address is.

use crate::client::Client;
use crate::failure::Failure;
pub use skep_docker::Networks;

/// Those of the cluster.
pub async fn networks(client: &Client) -> Result<Networks, Failure> {
    Ok(super::all(client).await?.into())
}
