//! Planted bugs: ways in which an interpreter of the core can be wrong, and decisions of
//! a leader that are wrong (`forge.rs`).
//!
//! They are permanent. A simulator that cannot find them finds nothing.

use std::fmt;
use std::str::FromStr;

/// A bug of the interpreter, or of the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plant {
    /// The disk says "durable" before it is.
    AckBeforePersist,
    /// Answers of an older term are taken for answers of this one.
    SkipTermCheck,
    /// The disk forgets term and vote in a crash.
    ForgetVote,
    /// Linearizable reads are served as stale ones.
    StaleRead,
    /// A client repeats a request under a new id.
    NewIdOnRetry,
    /// A snapshot loses its last record on its way.
    LossySnapshot,
    /// A watcher is told some changes twice.
    RepeatWatch,
    /// A membership record of the disk is lost and the cluster's first one used.
    ForgetMembership,
    /// A node is also told of a task of another node.
    DoubleAssign,
    /// An older version's value is sent for a newer one.
    StaleSecret,
    /// A shim restarts a container although there is a session.
    RestartWithSession,
    /// A node keeps values that it was to drop.
    ForgetDropSecret,
    /// The value of a secret gets into an error.
    TellSecret,
    /// What agents report is lost.
    LoseReports,
    /// A network daemon says that it has programmed what it was just handed.
    PublishBeforeProgrammed,
    /// A task is told that it may stop when it is withdrawn, not when nodes know.
    StopBeforeWithdrawn,
    /// A restarted daemon does not see a container that runs.
    OverlookShim,
    /// A manager that was stopped is not told that time has passed at once.
    HideLag,
    /// Timers run by wall time, which somebody sets.
    TimersByWall,
    /// A manager whose log is lost starts as if it were new, under its old raft id.
    VoteWithoutLog,
    /// Nobody looks whether a log has rotted before it is used.
    IgnoreRot,
    /// A sync that failed counts as one that was done.
    IgnoreFailedSync,
    /// A snapshot that did not fit on the disk counts as saved.
    ShortSnapshot,
    /// Nobody is told that the quorum is lost.
    SilentQuorum,
    /// The leader says that a deployment has converged before its tasks have run.
    ConvergeEarly,
    /// The leader replaces more tasks at a time than the update may.
    IgnoreParallelism,
    /// The leader counts a failure that there was not.
    CountTwice,
    /// The leader forgets a failure.
    LoseCount,
    /// The leader places a task on a node that is drained.
    PlaceOnDrained,
    /// The leader places a task on a node that does not meet its constraints.
    PlaceAgainstConstraints,
    /// The leader stops a task that runs as it is wanted.
    StopHealthy,
    /// The leader takes all nodes for gone at once.
    AllDown,
    /// Cluster time leaps, and what requests were answered is forgotten.
    ForgetOutcomes,
    /// A transaction is applied whose preconditions do not hold.
    DropPreconditions,
    /// What a node says of places that failed is lost.
    IgnorePlaces,
}

/// Every planted bug.
pub const PLANTS: [Plant; 35] = [
    Plant::AckBeforePersist,
    Plant::SkipTermCheck,
    Plant::ForgetVote,
    Plant::StaleRead,
    Plant::NewIdOnRetry,
    Plant::LossySnapshot,
    Plant::RepeatWatch,
    Plant::ForgetMembership,
    Plant::DoubleAssign,
    Plant::StaleSecret,
    Plant::RestartWithSession,
    Plant::ForgetDropSecret,
    Plant::TellSecret,
    Plant::LoseReports,
    Plant::PublishBeforeProgrammed,
    Plant::StopBeforeWithdrawn,
    Plant::OverlookShim,
    Plant::HideLag,
    Plant::TimersByWall,
    Plant::VoteWithoutLog,
    Plant::IgnoreRot,
    Plant::IgnoreFailedSync,
    Plant::ShortSnapshot,
    Plant::SilentQuorum,
    Plant::ConvergeEarly,
    Plant::IgnoreParallelism,
    Plant::CountTwice,
    Plant::LoseCount,
    Plant::PlaceOnDrained,
    Plant::PlaceAgainstConstraints,
    Plant::StopHealthy,
    Plant::AllDown,
    Plant::ForgetOutcomes,
    Plant::DropPreconditions,
    Plant::IgnorePlaces,
];

impl fmt::Display for Plant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AckBeforePersist => "ack-before-persist",
            Self::SkipTermCheck => "skip-term-check",
            Self::ForgetVote => "forget-vote",
            Self::StaleRead => "stale-read",
            Self::NewIdOnRetry => "new-id-on-retry",
            Self::LossySnapshot => "lossy-snapshot",
            Self::RepeatWatch => "repeat-watch",
            Self::ForgetMembership => "forget-membership",
            Self::DoubleAssign => "double-assign",
            Self::StaleSecret => "stale-secret",
            Self::RestartWithSession => "restart-with-session",
            Self::ForgetDropSecret => "forget-drop-secret",
            Self::TellSecret => "tell-secret",
            Self::LoseReports => "lose-reports",
            Self::PublishBeforeProgrammed => "publish-before-programmed",
            Self::StopBeforeWithdrawn => "stop-before-withdrawn",
            Self::OverlookShim => "overlook-shim",
            Self::HideLag => "hide-lag",
            Self::TimersByWall => "timers-by-wall",
            Self::VoteWithoutLog => "vote-without-log",
            Self::IgnoreRot => "ignore-rot",
            Self::IgnoreFailedSync => "ignore-failed-sync",
            Self::ShortSnapshot => "short-snapshot",
            Self::SilentQuorum => "silent-quorum",
            Self::ConvergeEarly => "converge-early",
            Self::IgnoreParallelism => "ignore-parallelism",
            Self::CountTwice => "count-twice",
            Self::LoseCount => "lose-count",
            Self::PlaceOnDrained => "place-on-drained",
            Self::PlaceAgainstConstraints => "place-against-constraints",
            Self::StopHealthy => "stop-healthy",
            Self::AllDown => "all-down",
            Self::ForgetOutcomes => "forget-outcomes",
            Self::DropPreconditions => "drop-preconditions",
            Self::IgnorePlaces => "ignore-places",
        })
    }
}

impl FromStr for Plant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        PLANTS.into_iter().find(|plant| plant.to_string() == text).ok_or_else(|| {
            let known: Vec<String> = PLANTS.iter().map(ToString::to_string).collect();
            format!("there is no planted bug {text:?}; there are {}", known.join(", "))
        })
    }
}
