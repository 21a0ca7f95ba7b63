//! Faults: what strikes, how often, and whom.

use super::machines::{Machine, Parcel};
use super::{Happening, Simulation};
use skep_model::node::{Availability, Role};
use std::time::Duration;

/// The kinds of faults that strike by themselves. Loss, delay, duplication and
/// reordering of messages and stalls of disks are drawn for each message and sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Partition,
    Crash,
    Pause,
    StepDown,
    Role,
    Loss,
    Daemon,
    Shim,
    Node,
    Netd,
}

impl Fault {
    pub(super) const ALL: [Fault; 10] = [
        Self::Partition,
        Self::Crash,
        Self::Pause,
        Self::StepDown,
        Self::Role,
        Self::Loss,
        Self::Daemon,
        Self::Shim,
        Self::Node,
        Self::Netd,
    ];
}

/// A machine is lost for good about this long after the beginning.
const LOSS_AFTER: Duration = Duration::from_secs(120);
/// Chaos begins when the first managers had time to find each other.
const QUIET: Duration = Duration::from_secs(5);

impl Simulation {
    pub(super) fn schedule_fault(&mut self, fault: Fault) {
        let mean = match fault {
            Fault::Partition => self.profile.partition,
            Fault::Crash => self.profile.crash,
            Fault::Pause => self.profile.pause,
            Fault::StepDown => self.profile.step_down,
            Fault::Role => self.profile.role,
            Fault::Daemon => self.profile.daemon,
            Fault::Shim => self.profile.shim,
            Fault::Node => self.profile.node,
            Fault::Netd => self.profile.netd,
            Fault::Loss => self.profile.loses_one.then_some(LOSS_AFTER),
        };
        let Some(mean) = mean else { return };
        let dice = if fault == Fault::Netd { &mut self.dice.nets } else { &mut self.dice.faults };
        let delay = dice.around(mean).max(QUIET);
        self.after(delay, Happening::Fault(fault));
    }

    pub(super) fn strike(&mut self, fault: Fault) -> Result<(), String> {
        if !self.is_chaos() {
            return Ok(());
        }
        match fault {
            Fault::Partition => self.partition(),
            Fault::Crash => self.crash_some(),
            Fault::Pause => self.pause_one(),
            Fault::StepDown => self.order_step_down(),
            Fault::Role => self.change_role(),
            Fault::Loss => self.lose_one(),
            Fault::Daemon => self.kill_daemon(),
            Fault::Shim => self.kill_some_shim(),
            Fault::Node => self.change_node(),
            Fault::Netd => self.disturb_some_network(),
        }
        if fault != Fault::Loss {
            self.schedule_fault(fault);
        }
        Ok(())
    }

    /// A machine; the leader in half of the cases, since that hurts most.
    fn victim(&mut self) -> usize {
        let anyone = self.dice.faults.below(self.machines.len());
        if self.dice.faults.chance(500_000) { self.leader().unwrap_or(anyone) } else { anyone }
    }

    fn partition(&mut self) {
        let victim = self.victim();
        let mut side = vec![victim];
        for machine in 0..self.machines.len() {
            if machine != victim && self.dice.faults.chance(250_000) {
                side.push(machine);
            }
        }
        let others: Vec<usize> = (0..self.machines.len()).filter(|machine| !side.contains(machine)).collect();
        let kind = self.dice.faults.below(4);
        let mut pairs = Vec::new();
        for &inside in &side {
            for &outside in &others {
                if kind != 0 {
                    pairs.push((inside, outside));
                }
                if kind != 1 {
                    pairs.push((outside, inside));
                }
            }
        }
        if pairs.is_empty() {
            return;
        }
        self.coverage.count(if kind < 2 { "fault: partition, one way" } else { "fault: partition, symmetric" });
        let (kind, length) = (if kind < 2 { "one way" } else { "symmetric" }, self.dice.faults.around(Duration::from_secs(6)));
        self.note(format!("{side:?} is cut off, {kind}, for {length:?}"));
        let partition = self.network.cut(pairs);
        self.after(length, Happening::Mend { partition });
    }

    /// One machine, or all at once: a power cut is not for minorities only.
    fn crash_some(&mut self) {
        let victims = if self.dice.faults.chance(250_000) { (0..self.machines.len()).collect() } else { vec![self.victim()] };
        for victim in victims {
            if self.machines[victim].is_up && !self.machines[victim].is_lost {
                self.crash(victim);
                let off = self.dice.faults.between(Duration::from_millis(50), Duration::from_secs(8));
                self.after(off, Happening::Restart { machine: victim });
            }
        }
    }

    /// A daemon is killed; its node goes on.
    fn kill_daemon(&mut self) {
        let victim = self.dice.faults.below(self.machines.len());
        if self.machines[victim].is_up && !self.machines[victim].is_lost {
            self.coverage.count("fault: daemon killed");
            self.crash_daemon(victim);
            let off = self.dice.faults.between(Duration::from_millis(50), Duration::from_secs(8));
            self.after(off, Happening::Restart { machine: victim });
        }
    }

    /// A node is to be drained, paused or active, or moves to another zone.
    fn change_node(&mut self) {
        let victim = self.dice.faults.below(self.machines.len());
        let availability = *self.dice.faults.pick(&[Availability::Active, Availability::Pause, Availability::Drain]);
        let machine = &mut self.machines[victim];
        if self.dice.faults.chance(300_000) {
            self.coverage.count("node: label changed");
            machine.zone = 1 - machine.zone;
        } else {
            machine.availability = availability;
            self.coverage.count(format!("node: {availability:?}"));
        }
    }

    fn pause_one(&mut self) {
        let victim = self.victim();
        let machine = &mut self.machines[victim];
        if !machine.is_up || machine.is_paused {
            return;
        }
        machine.is_paused = true;
        self.coverage.count("fault: pause");
        self.note(format!("machine {victim} is paused"));
        let length = self.dice.faults.between(Duration::from_millis(100), Duration::from_secs(5));
        self.after(length, Happening::Resume { machine: victim });
    }

    fn order_step_down(&mut self) {
        if let Some(leader) = self.leader() {
            self.coverage.count("raft: stepped down on order");
            self.after(Duration::ZERO, Happening::Arrive { machine: leader, parcel: Parcel::StepDown });
        }
    }

    fn candidates(&self, role: Role) -> Vec<usize> {
        let fits = |machine: &&Machine| !machine.is_lost && !machine.is_worker && machine.wanted == Some(role);
        self.machines.iter().filter(fits).map(|machine| machine.number).collect()
    }

    /// A manager is demoted, or one that was is promoted again.
    fn change_role(&mut self) {
        let (managers, workers) = (self.candidates(Role::Manager), self.candidates(Role::Worker));
        let (number, role) = if managers.len() > 2 && (workers.is_empty() || self.dice.faults.chance(500_000)) {
            (*self.dice.faults.pick(&managers), Role::Worker)
        } else if let Some(worker) = workers.first() {
            (*worker, Role::Manager)
        } else {
            return;
        };
        self.coverage.count(if role == Role::Worker { "role: demoted" } else { "role: promoted" });
        self.note(format!("machine {number} is to be a {role:?}"));
        self.machines[number].wanted = Some(role);
    }

    /// Whether that many voters are all there is and no change of roles is under way.
    fn is_settled(&self, n_voters: usize) -> bool {
        let status = self.leader().and_then(|leader| self.machines[leader].manager.as_ref()).map(|manager| manager.status());
        status.is_some_and(|status| status.voters.len() == n_voters && status.learners.is_empty())
            && self.operator.wish().is_none()
    }

    /// A machine burns down; the operator replaces it by a new one.
    fn lose_one(&mut self) {
        let managers = self.candidates(Role::Manager);
        // One of two voters cannot be lost: nobody would ever lead again.
        if managers.len() < 3 || !self.is_settled(managers.len()) {
            return self.after(QUIET, Happening::Fault(Fault::Loss));
        }
        let victim = *self.dice.faults.pick(&managers);
        self.crash(victim);
        let machine = &mut self.machines[victim];
        (machine.is_lost, machine.wanted) = (true, None);
        machine.disk.wipe();
        self.coverage.count("fault: permanent loss");
        self.note(format!("machine {victim} is lost for good"));
        let number = self.machines.len();
        self.machines.push(Machine::new(number, false, &mut self.dice.other));
        self.after(Duration::from_millis(100), Happening::Daemon { machine: number });
    }
}
