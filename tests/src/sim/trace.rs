//! Everything that happened, as lines: hashed all, the newest kept for the report.

use super::sealing::sings;
use raft::eraftpb::{Entry, Message};
use sha2::{Digest, Sha256};
use skep_manager_core::action::Action;
use skep_manager_core::event::Event;
use skep_manager_core::store::watch::Recent;
use skep_model::Time;
use std::collections::VecDeque;
use std::fmt::Write as _;

/// How many lines a report shows.
const LINES_MAX: usize = 80;

/// The trace of a simulation.
#[derive(Debug, Default)]
pub struct Trace {
    hasher: Sha256,
    recent: VecDeque<String>,
    is_printed: bool,
    sings: bool,
}

impl Trace {
    /// A trace that is also printed as it grows, if wanted.
    pub fn new(is_printed: bool) -> Self {
        Self { is_printed, ..Self::default() }
    }

    /// Adds a line.
    pub fn line(&mut self, now: Time, line: String) {
        let line = format!("{now:?} {line}");
        self.sings |= sings(line.as_bytes());
        self.hasher.update(line.as_bytes());
        self.hasher.update(b"\n");
        if self.recent.len() == LINES_MAX {
            self.recent.pop_front();
        }
        if self.is_printed {
            println!("{line}");
        }
        self.recent.push_back(line);
    }

    /// Whether the value of a secret was in any line.
    pub fn sings(&self) -> bool {
        self.sings
    }

    /// The newest lines.
    pub fn recent(&self) -> Vec<String> {
        self.recent.iter().cloned().collect()
    }

    /// The hash of all lines, in hex.
    pub fn hash(&self) -> String {
        self.hasher.clone().finalize().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// An event in one line, contents included by their checksum.
pub fn event(event: &Event) -> String {
    match event {
        Event::Peer(message) => format!("peer {}", message_line(message)),
        Event::SnapshotReceived { message, content } => {
            format!("snapshot received {} version {}", message_line(message), content.store.version)
        }
        other => format!("{other:?}"),
    }
}

/// An action in one line.
pub fn action(action: &Action) -> String {
    match action {
        Action::Persist(persist) => format!(
            "persist {} {} {:?} {:?} snapshot {:?}",
            persist.n,
            entries(&persist.entries),
            persist.hard_state.as_ref().map(|state| (state.term, state.vote, state.commit)),
            persist.membership.as_ref().map(|(index, members)| (index, &members.voters, &members.learners)),
            persist.snapshot.as_ref().map(|metadata| metadata.index),
        ),
        Action::SendPeer { address, message, .. } => format!("send {address} {}", message_line(message)),
        Action::StreamSnapshot { address, message, view, .. } => {
            format!("stream {address} {} version {}", message_line(message), view.version)
        }
        Action::SaveSnapshot { metadata, view } => {
            format!("save snapshot {} {} version {}", metadata.index, metadata.term, view.version)
        }
        Action::ReadReady { ticket, result } => format!("read ready {ticket:?} {:?}", result.as_ref().map(|view| view.version)),
        Action::SendAssignments { session, term, assignments, .. } => format!("assign {session} {term} {assignments:?}"),
        Action::WatchChanges { ticket, recent } => {
            let objects = |recent: &Recent| recent.changes.iter().map(|change| change.object).collect::<Vec<_>>();
            let versions: Vec<_> = recent.iter().map(|recent| format!("{} {:?}", recent.version, objects(recent))).collect();
            format!("watch {ticket:?} {}", versions.join(", "))
        }
        other => format!("{other:?}"),
    }
}

fn message_line(message: &Message) -> String {
    format!(
        "{:?} {}>{} term {} log {}/{} commit {} reject {}/{} snapshot {} context {:x} {}",
        message.get_msg_type(),
        short(message.from),
        short(message.to),
        message.term,
        message.index,
        message.log_term,
        message.commit,
        message.reject,
        message.reject_hint,
        message.get_snapshot().get_metadata().index,
        checksum(&message.context),
        entries(message.get_entries()),
    )
}

fn entries(entries: &[Entry]) -> String {
    let mut text = String::from("[");
    for entry in entries {
        let _ = write!(text, " {}/{}:{:x}", entry.index, entry.term, checksum(&entry.data));
    }
    text.push_str(" ]");
    text
}

/// Raft ids are long; four digits tell them apart.
fn short(raft_id: u64) -> u64 {
    raft_id % 10_000
}

/// FNV-1a: what the trace says of bytes.
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
