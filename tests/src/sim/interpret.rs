//! Carries out what managers want: the interpreter of [`Action`].

use super::calls::Answer;
use super::disk::{Operation, SnapshotFile};
use super::machines::Parcel;
use super::plant::Plant;
use super::{Happening, Simulation, trace};
use raft::eraftpb::Message;
use skep_manager_core::action::Action;
use skep_manager_core::event::Event;
use skep_manager_core::leader::BUG;
use skep_manager_core::store::Store;
use skep_model::Refusal;
use std::sync::Arc;
use std::time::Duration;

/// How long a sender waits for a snapshot's receipt.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(2);

impl Simulation {
    pub(super) fn carry_out(&mut self, number: usize, action: Action) -> Result<(), String> {
        self.note(format!("m{number} > {}", trace::action(&action)));
        match action {
            Action::Persist(persist) => {
                if self.has_plant(Plant::AckBeforePersist) {
                    let (n, incarnation) = (persist.n, self.machines[number].incarnation);
                    self.after(Duration::from_micros(20), Happening::DiskLied { machine: number, incarnation, n });
                }
                if persist.snapshot.is_some() {
                    self.coverage.count("snapshot: installed");
                }
                self.write(number, Operation::Append(Box::new(persist)));
                Ok(())
            }
            Action::SendPeer { address, message, .. } => {
                self.send(number, &address, *message);
                Ok(())
            }
            Action::StreamSnapshot { raft_id, address, message, view } => {
                self.stream(number, raft_id, &address, message, &view);
                Ok(())
            }
            Action::SaveSnapshot { metadata, view } => {
                let records = Arc::new(view.encoded_records().flatten().collect());
                self.write(number, Operation::Save(SnapshotFile { metadata, records }));
                Ok(())
            }
            Action::Compact { index } => {
                self.coverage.count("log: compacted");
                self.write(number, Operation::Compact(index));
                Ok(())
            }
            Action::Reply { ticket, result } => {
                if let Ok(outcome) = &result
                    && let Some(origin) = self.machines[number].tickets.get(&ticket)
                    && let Some(request) = origin.request()
                {
                    self.checkers.acknowledge(request, *outcome)?;
                }
                let is_silenced = matches!(result, Err(Refusal::NoQuorum(_))) && self.has_plant(Plant::SilentQuorum);
                if !is_silenced {
                    self.answer(number, ticket, Answer::Outcome(result));
                }
                Ok(())
            }
            Action::ReadReady { ticket, result } => {
                if self.watcher.has(number, ticket) {
                    return self.watch_begins(result);
                }
                let is_silenced = matches!(result, Err(Refusal::NoQuorum(_))) && self.has_plant(Plant::SilentQuorum);
                if !is_silenced {
                    self.answer(number, ticket, Answer::View(result));
                }
                Ok(())
            }
            Action::WatchChanges { ticket, recent } => {
                recent.iter().try_for_each(|recent| self.watch_changes(number, ticket, recent.version, &recent.changes))
            }
            Action::WatchPast { .. } => Err("a watch since a time began that nobody asked for".into()),
            Action::WatchEnded { ticket, end } => {
                self.watch_ends(number, ticket, &end);
                Ok(())
            }
            Action::SendInfo { session, info } => {
                self.send_info(session, info);
                Ok(())
            }
            Action::SendAssignments { session, term, assignments, view } => {
                self.send_assignments(session, term, assignments, &view)
            }
            Action::CloseSession { session, reason } => {
                self.close_session(number, session, reason);
                Ok(())
            }
            // A panic that the core survived is a panic all the same.
            Action::Warn { sentence } if sentence.starts_with(BUG) => Err(format!("machine {number}: {sentence}")),
            Action::QuorumLost { sentence } => {
                self.coverage.count(if sentence.is_some() { "raft: quorum lost" } else { "raft: quorum back" });
                Ok(())
            }
            Action::ClosePeer { .. } | Action::LeaderChanged { .. } | Action::Warn { .. } => Ok(()),
            Action::Removed => {
                self.wipe(number);
                Ok(())
            }
            Action::Halt { sentence } => Err(format!("machine {number} halts: {sentence}")),
        }
    }

    fn write(&mut self, number: usize, operation: Operation) {
        let (least, most) = self.profile.sync;
        let mut sync = self.dice.disk.between(least, most);
        if self.dice.disk.chance(self.profile.stall) {
            self.coverage.count("fault: disk stall");
            sync *= 100;
        }
        if self.has_plant(Plant::AckBeforePersist) {
            sync *= 50;
        }
        let now = self.now;
        let machine = &mut self.machines[number];
        machine.disk.pending.push_back(operation);
        machine.disk.free_at = machine.disk.free_at.max(now) + sync;
        let (at, incarnation) = (machine.disk.free_at, machine.incarnation);
        self.at(at, Happening::DiskDone { machine: number, incarnation });
    }

    pub(super) fn disk_done(&mut self, number: usize, incarnation: u32) -> Result<(), String> {
        let lies = self.has_plant(Plant::AckBeforePersist);
        let machine = &mut self.machines[number];
        if machine.incarnation != incarnation {
            return Ok(());
        }
        if machine.is_paused {
            machine.held.push(Happening::DiskDone { machine: number, incarnation });
            return Ok(());
        }
        if self.now < machine.disk.full_until && self.is_full_for(number) {
            return Ok(());
        }
        if self.is_chaos() && self.dice.clocks.chance(self.profile.failed_sync) {
            return self.sync_fails(number);
        }
        match self.machines[number].disk.complete() {
            Some(Operation::Append(_)) if lies => Ok(()),
            Some(Operation::Append(persist)) => self.give(number, Event::Persisted { n: persist.n }),
            Some(Operation::Save(file)) => {
                self.coverage.count("snapshot: saved");
                self.give(number, Event::SnapshotSaved { index: file.metadata.index })
            }
            Some(Operation::Compact(_)) | None => Ok(()),
        }
    }

    /// What the oldest operation comes to on a disk that is full; whether that is all.
    fn is_full_for(&mut self, number: usize) -> bool {
        let is_snapshot = matches!(self.machines[number].disk.pending.front(), Some(Operation::Save(_)));
        // A log has files of a size that are filled: most entries find room.
        let is_append = matches!(self.machines[number].disk.pending.front(), Some(Operation::Append(_)));
        if is_snapshot {
            self.coverage.count("snapshot: not saved");
            if self.has_plant(Plant::ShortSnapshot) {
                self.machines[number].disk.shorten();
                return false;
            }
            self.machines[number].disk.pending.pop_front();
            let incarnation = self.machines[number].incarnation;
            self.after(Duration::ZERO, Happening::NotSaved { machine: number, incarnation });
            return true;
        }
        if is_append && self.dice.clocks.chance(100_000) {
            self.end_by_disk(number);
            return true;
        }
        false
    }

    /// Nobody knows what is on the disk: the process ends, and is started again.
    fn sync_fails(&mut self, number: usize) -> Result<(), String> {
        self.coverage.count("fault: sync failed");
        self.note(format!("a sync of machine {number} fails"));
        if self.has_plant(Plant::IgnoreFailedSync) {
            return match self.machines[number].disk.pending.pop_front() {
                Some(Operation::Append(persist)) => self.give(number, Event::Persisted { n: persist.n }),
                _ => Ok(()),
            };
        }
        self.end_by_disk(number);
        Ok(())
    }

    fn end_by_disk(&mut self, number: usize) {
        self.crash_daemon(number);
        let off = self.dice.clocks.between(Duration::from_millis(200), Duration::from_secs(4));
        self.trouble(off);
        self.after(off, Happening::Restart { machine: number });
    }

    pub(super) fn disk_lied(&mut self, number: usize, incarnation: u32, n: u64) -> Result<(), String> {
        let machine = &mut self.machines[number];
        if machine.incarnation != incarnation {
            return Ok(());
        }
        if machine.is_paused {
            machine.held.push(Happening::DiskLied { machine: number, incarnation, n });
            return Ok(());
        }
        self.give(number, Event::Persisted { n })
    }

    fn machine_at(&self, address: &str) -> Option<usize> {
        self.machines.iter().position(|machine| machine.address == address)
    }

    fn send(&mut self, from: usize, address: &str, message: Message) {
        let Some(to) = self.machine_at(address) else {
            self.coverage.count("network: unknown address");
            return;
        };
        let fate = self.network.fate(from, to, &self.profile, &mut self.dice.network);
        for fault in fate.faults {
            self.coverage.count(fault);
        }
        for delay in fate.arrivals {
            let (delay, parcel) = (delay + self.lateness(&message), Parcel::Raft(Box::new(message.clone())));
            self.after(delay, Happening::Arrive { machine: to, parcel });
        }
    }

    fn stream(&mut self, from: usize, raft_id: u64, address: &str, message: Box<Message>, view: &Store) {
        let incarnation = self.machines[from].incarnation;
        let fate = self.machine_at(address).map(|to| (to, self.network.fate(from, to, &self.profile, &mut self.dice.network)));
        let arrives = fate.and_then(|(to, fate)| Some((to, *fate.arrivals.first()?)));
        let Some((to, delay)) = arrives.filter(|(to, _)| self.machines[*to].is_up) else {
            self.coverage.count("snapshot: lost");
            let parcel = Parcel::SnapshotSent { raft_id, ok: false, incarnation };
            return self.after(SNAPSHOT_TIMEOUT, Happening::Arrive { machine: from, parcel });
        };
        self.coverage.count("snapshot: streamed");
        let metadata = message.get_snapshot().get_metadata().clone();
        let file = SnapshotFile { metadata, records: Arc::new(view.encoded_records().flatten().collect()) };
        let transfer = delay + self.dice.network.around(Duration::from_millis(50));
        let parcel = Parcel::Snapshot { message, file, from, incarnation };
        self.after(transfer, Happening::Arrive { machine: to, parcel });
    }
}
