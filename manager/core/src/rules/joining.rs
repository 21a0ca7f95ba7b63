//! A node that is to become a member of raft, as admission has checked it.

use skep_model::NodeId;
use skep_model::cluster::SealingSlot;

/// A validated request to become a member of raft.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinRaft {
    /// The node; it has a manager's certificate and is not to be demoted.
    pub node: NodeId,
    /// `host:port` at which the others reach it.
    pub address: String,
    /// The public half of its unsealing key, 32 bytes.
    pub unsealing_key: Vec<u8>,
    /// The sealing key wrapped for it, one slot for each generation.
    pub slots: Vec<SealingSlot>,
    /// The newest stored format it can read.
    pub format_max: u32,
}
