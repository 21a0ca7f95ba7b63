//! What follows the rows in a turn of the engine: the tables of each namespace,
//! and the answers to names.
//!
//! Both follow from the same [`NodeOverlay`] as the rows, and both have the same shape:
//! `settle` is called when the rows are in place, with what was touched since the
//! last call that the engine made. It brings everything in line, and keeps what it
//! could not do for the next call, which comes after a second at the latest, also
//! when nothing was touched. A version counts as programmed when everybody has looked
//! at it and the conntrack flushes ordered by then are done; a failure is named
//! at its place, and only what needs that place waits for it.

use crate::kernel::Kernel;
use skep_model::place::PlaceFault;
use skep_netd_core::{DirtyKeys, Namespace, NodeOverlay};
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

/// What a step has to work with.
pub struct Turn<'a> {
    /// Everything that the node was told.
    pub overlay: &'a NodeOverlay,
    /// Where it may have changed. Of a task that went, the namespace is still
    /// there if anybody has a descriptor of it: all of them must be let go now.
    pub dirty: &'a DirtyKeys,
    kernel: &'a Kernel,
}

impl<'a> Turn<'a> {
    pub(crate) fn new(overlay: &'a NodeOverlay, dirty: &'a DirtyKeys, kernel: &'a Kernel) -> Self {
        Self { overlay, dirty, kernel }
    }

    /// A namespace, to open sockets in ([`crate::netlink::namespace::inside`]); none = it is
    /// the node's, in which every thread is, or it is not there (any more).
    pub fn namespace(&self, namespace: Namespace) -> Option<BorrowedFd<'a>> {
        self.kernel.namespace(namespace)
    }

    /// Whether a namespace is there.
    pub fn is_there(&self, namespace: Namespace) -> bool {
        self.kernel.is_open(namespace)
    }
}

/// How a step went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// What could not be done, a sentence for each namespace where something could
    /// not.
    pub failures: BTreeMap<Namespace, String>,
    /// What does not work for another reason than a failure that is tried again: the
    /// complete list, each time (a port that somebody else has, a firewall in the way).
    pub faults: Vec<PlaceFault>,
    /// What others had changed and was put right.
    pub repairs: Vec<Repair>,
}

/// Something that others had changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// Its kind, in one word.
    pub kind: &'static str,
    /// What it was, as a line.
    pub text: String,
    /// Whether no event told of it.
    pub by_audit: bool,
}

/// An error with its causes, in one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}
