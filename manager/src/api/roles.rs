//! Who may call what, and how long a call may take: one table from RPC to roles, as a
//! test demands.

use skep_model::node::Role;
use std::fmt;
use std::time::Duration;

/// What a caller must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Anyone who can connect; the call checks a token or a certificate itself.
    Anyone,
    /// A node of this cluster.
    Node,
    /// A manager of this cluster, or root on its own socket.
    Manager,
}

/// The longest that a call may take from its first byte to the last of its answer,
/// unless it is a stream. Longer than any deadline behind it.
const CALL: Option<Duration> = Some(Duration::from_secs(90));
/// The same for a call that anyone may make.
const CALL_OF_ANYONE: Option<Duration> = Some(Duration::from_secs(30));
/// A stream lasts as long as both sides want; its first and next messages have
/// deadlines of their own where they can be named.
const STREAM: Option<Duration> = None;

/// Every RPC that is served on the network, who may call it, and for how long.
pub const TABLE: &[(&str, Allowed, Option<Duration>)] = &[
    ("skep.v1.Ca/GetRoot", Allowed::Anyone, CALL_OF_ANYONE),
    ("skep.v1.Ca/Issue", Allowed::Anyone, CALL_OF_ANYONE),
    ("skep.v1.Control/Mutate", Allowed::Manager, CALL),
    ("skep.v1.Control/Read", Allowed::Manager, CALL),
    ("skep.v1.Control/Watch", Allowed::Manager, STREAM),
    ("skep.v1.Control/Logs", Allowed::Manager, STREAM),
    ("skep.v1.Control/DistributeImage", Allowed::Manager, STREAM),
    ("skep.v1.Control/VerifyNetworks", Allowed::Manager, CALL),
    ("skep.v1.Dispatcher/Session", Allowed::Node, STREAM),
    ("skep.v1.Dispatcher/PublishLogs", Allowed::Node, STREAM),
    ("skep.v1.Dispatcher/FetchImage", Allowed::Node, STREAM),
    ("skep.v1.Raft/Step", Allowed::Manager, STREAM),
    ("skep.v1.Raft/Snapshot", Allowed::Manager, STREAM),
    ("skep.v1.Raft/JoinRaft", Allowed::Manager, CALL),
];

/// What is known of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// No certificate was shown.
    Nobody,
    /// A certificate of this cluster was shown.
    Node(Role),
    /// Root, or the group of the socket, on this machine.
    Local,
}

/// How long a call may take; `None` = as long as it wants.
pub fn call_max(rpc: &str) -> Option<Duration> {
    TABLE.iter().find(|(name, ..)| *name == rpc).map_or(CALL_OF_ANYONE, |(.., limit)| *limit)
}

/// Whether `who` may call `rpc` (`package.Service/Method`). An RPC without a row
/// is nobody's.
pub fn may_call(rpc: &str, who: Who) -> bool {
    let Some((_, allowed, _)) = TABLE.iter().find(|(name, ..)| *name == rpc) else { return false };
    match (allowed, who) {
        (Allowed::Anyone, _) | (_, Who::Local) => true,
        (Allowed::Node, Who::Node(_)) | (Allowed::Manager, Who::Node(Role::Manager)) => true,
        (Allowed::Node | Allowed::Manager, _) => false,
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anyone => "anyone",
            Self::Node => "nodes of this cluster",
            Self::Manager => "managers of this cluster",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_separate() {
        let table = [
            ("skep.v1.Ca/GetRoot", Who::Nobody, true),
            ("skep.v1.Dispatcher/Session", Who::Nobody, false),
            ("skep.v1.Dispatcher/Session", Who::Node(Role::Worker), true),
            ("skep.v1.Control/Read", Who::Node(Role::Worker), false),
            ("skep.v1.Raft/Step", Who::Node(Role::Worker), false),
            ("skep.v1.Raft/Step", Who::Node(Role::Manager), true),
            ("skep.v1.Control/Mutate", Who::Local, true),
            ("skep.v1.Control/Unheard", Who::Local, false),
        ];
        for (rpc, who, expected) in table {
            assert_eq!(may_call(rpc, who), expected, "{rpc} {who:?}");
        }
    }

    /// A new RPC needs a row: the descriptors are the list of what exists.
    #[test]
    fn every_rpc_on_the_network_has_a_row() {
        use prost::Message;
        let set = prost_types::FileDescriptorSet::decode(skep_proto::DESCRIPTORS).expect("descriptors decode");
        let mut count = 0;
        for service in set.file.iter().flat_map(|file| &file.service) {
            // These are on unix sockets of the node only.
            if matches!(service.name(), "Local" | "Netd") {
                continue;
            }
            for method in &service.method {
                let rpc = format!("skep.v1.{}/{}", service.name(), method.name());
                assert!(TABLE.iter().any(|(name, ..)| *name == rpc), "{rpc} has no row");
                let is_stream = method.client_streaming() || method.server_streaming();
                assert!(is_stream || call_max(&rpc).is_some(), "{rpc} may last for ever");
                count += 1;
            }
        }
        assert_eq!(count, TABLE.len(), "a row names an RPC that does not exist");
    }
}
