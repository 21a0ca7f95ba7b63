//! Faults: what strikes, how often, and whom.

use super::clocks::Clock;
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
    Clock,
    Stop,
    Quorum,
    Full,
    Log,
    Place,
}

impl Fault {
    pub(super) const ALL: [Fault; 16] = [
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
        Self::Clock,
        Self::Stop,
        Self::Quorum,
        Self::Full,
        Self::Log,
        Self::Place,
    ];
}

/// A machine is lost for good about this long after the beginning.
const LOSS_AFTER: Duration = Duration::from_secs(120);
/// After this time without trouble every node has a session again.
const SETTLED_AFTER: Duration = Duration::from_secs(30);
/// Messages lost, of a million, with which hardly ever a session breaks.
const LOSS_SMALL: u32 = 2_000;
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
            Fault::Clock => self.profile.step,
            Fault::Stop => self.profile.stop,
            Fault::Quorum => self.profile.quorum,
            Fault::Full => self.profile.full,
            Fault::Log => self.profile.lost_log,
            Fault::Place => self.profile.place,
            Fault::Loss => self.profile.loses_one.then_some(LOSS_AFTER),
        };
        let Some(mean) = mean else { return };
        let dice = match fault {
            Fault::Netd => &mut self.dice.nets,
            Fault::Place => &mut self.dice.places,
            Fault::Clock | Fault::Stop | Fault::Quorum | Fault::Full | Fault::Log => &mut self.dice.clocks,
            _ => &mut self.dice.faults,
        };
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
            Fault::Clock => self.set_a_clock(),
            Fault::Stop => self.stop_some(),
            Fault::Quorum => self.lose_quorum(),
            Fault::Full => self.fill_a_disk(),
            Fault::Log => self.lose_a_log(),
            Fault::Place => self.break_a_network(),
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
        self.trouble(length);
        let partition = self.network.cut(pairs);
        self.after(length, Happening::Mend { partition });
    }

    /// One machine, or all at once: a power cut is not for minorities only.
    fn crash_some(&mut self) {
        let victims = if self.dice.faults.chance(250_000) { (0..self.machines.len()).collect() } else { vec![self.victim()] };
        for victim in victims {
            if self.machines[victim].is_up && !self.machines[victim].is_lost {
                self.crash(victim);
                self.trouble(Duration::from_secs(8));
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
            self.trouble(Duration::from_secs(8));
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
        self.machines[victim].stopped_at = Some(self.now);
        self.trouble(length);
        self.after(length, Happening::Resume { machine: victim });
    }

    fn order_step_down(&mut self) {
        if let Some(leader) = self.leader() {
            self.coverage.count("raft: stepped down on order");
            self.after(Duration::ZERO, Happening::Arrive { machine: leader, parcel: Parcel::StepDown });
        }
    }

    fn candidates(&self, role: Role) -> Vec<usize> {
        let fits =
            |machine: &&Machine| !machine.is_lost && !machine.is_worker && !machine.has_lost_log && machine.wanted == Some(role);
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
        let clock = Clock::draw(&self.profile, &mut self.dice.clocks, self.now, self.options.plant);
        self.machines.push(Machine::new(number, false, clock, &mut self.dice.other));
        self.trouble(Duration::from_secs(30));
        self.after(Duration::from_millis(100), Happening::Daemon { machine: number });
    }

    /// Something is wrong for so long that may make a node silent.
    pub(super) fn trouble(&mut self, length: Duration) {
        self.troubled_until = self.troubled_until.max(self.now + length);
    }

    /// Somebody sets the wall clock of a machine, the leader's in half of the cases.
    fn set_a_clock(&mut self) {
        let anyone = self.dice.clocks.below(self.machines.len());
        let victim = if self.dice.clocks.chance(500_000) { self.leader().unwrap_or(anyone) } else { anyone };
        let most = Duration::from_secs(2 * 3600);
        let before = self.clock(victim).wall;
        let off = self.machines[victim].clock.step(most, &mut self.dice.clocks);
        let is_ahead = self.clock(victim).wall > before;
        self.coverage.count(if is_ahead { "fault: clock stepped forward" } else { "fault: clock stepped back" });
        self.note(format!("the wall clock of machine {victim} is set {off} ms off"));
    }

    /// Processes are stopped and go on: the leader's, a manager's, all managers', or all.
    fn stop_some(&mut self) {
        let seconds = |dice: &mut super::Dice, least, most| dice.between(Duration::from_secs(least), Duration::from_secs(most));
        let managers: Vec<usize> = self.machines.iter().filter(|it| it.manager.is_some()).map(|it| it.number).collect();
        let Some(leader) = self.leader() else { return };
        // One at a time, so that what goes on is what was stopped, and nodes that look for
        // a manager after one do not lose it by the next.
        let is_new = |machine: &Machine| machine.went_on_at.is_some_and(|at| self.now.since(at) < SETTLED_AFTER / 2);
        if self.machines.iter().any(|machine| machine.is_paused || is_new(machine)) {
            return;
        }
        let dice = &mut self.dice.clocks;
        let (what, victims, length) = match dice.below(4) {
            0 => ("the leader", vec![leader], seconds(dice, 1, 8)),
            1 => ("a manager", vec![*dice.pick(&managers)], seconds(dice, 4, 10)),
            2 => ("all managers", managers, seconds(dice, 4, 60)),
            _ => ("everything", (0..self.machines.len()).collect(), seconds(dice, 4, 60)),
        };
        self.coverage.count(format!("fault: stopped, {what}"));
        self.note(format!("{what} ({victims:?}) is stopped for {length:?}"));
        let is_everything = victims.len() == self.machines.len();
        for victim in victims {
            let machine = &mut self.machines[victim];
            if machine.is_up && !machine.is_paused {
                machine.is_paused = true;
                machine.stopped_at = Some(self.now);
                if !is_everything {
                    machine.resumed_at = Some(self.now + length);
                }
                self.after(length, Happening::Resume { machine: victim });
            }
        }
    }

    /// A majority of the managers is off for a while.
    fn lose_quorum(&mut self) {
        let mut managers = self.candidates(Role::Manager);
        if !self.is_settled(managers.len()) || managers.len() < 3 {
            return;
        }
        let n_left = managers.len() - managers.len() / 2 - 1;
        for _ in 0..n_left {
            let stays = self.dice.clocks.below(managers.len());
            managers.swap_remove(stays);
        }
        self.coverage.count("fault: quorum lost");
        self.note(format!("the managers {managers:?} are off, and with them the quorum"));
        let length = self.dice.clocks.between(Duration::from_secs(8), Duration::from_secs(20));
        self.trouble(length);
        for victim in managers {
            if self.machines[victim].is_up {
                self.crash(victim);
            }
            self.after(length, Happening::Restart { machine: victim });
        }
        self.quorum_lost_since = Some(self.now);
    }

    /// Nothing fits on a machine's disk for a while.
    fn fill_a_disk(&mut self) {
        let victim = self.dice.clocks.below(self.machines.len());
        let length = self.dice.clocks.between(Duration::from_secs(2), Duration::from_secs(15));
        self.coverage.count("fault: disk full");
        self.note(format!("the disk of machine {victim} is full for {length:?}"));
        self.machines[victim].disk.full_until = self.now + length;
    }

    /// A manager's log is lost, or has rotted, and its raft id is still there. The
    /// operator does what the refusal says: demotes it, and promotes it again.
    fn lose_a_log(&mut self) {
        let managers = self.candidates(Role::Manager);
        if managers.len() < 3 || !self.is_settled(managers.len()) {
            return;
        }
        let victim = *self.dice.clocks.pick(&managers);
        if !self.machines[victim].is_up || self.machines[victim].disk.raft_id.is_none() {
            return;
        }
        self.crash(victim);
        let is_rot = self.dice.clocks.chance(500_000) && self.machines[victim].disk.rot(&mut self.dice.clocks);
        if !is_rot {
            self.machines[victim].disk.lose();
        }
        self.coverage.count(if is_rot { "fault: bit rot" } else { "fault: log lost" });
        self.note(format!("the log of machine {victim} {}", if is_rot { "has rotted" } else { "is lost" }));
        (self.machines[victim].wanted, self.machines[victim].has_lost_log) = (Some(Role::Worker), true);
        let off = self.dice.clocks.between(Duration::from_millis(50), Duration::from_secs(4));
        self.trouble(off + Duration::from_secs(30));
        self.after(off, Happening::Restart { machine: victim });
        self.after(off + Duration::from_secs(15), Happening::Promote { machine: victim });
    }

    /// Where nothing was wrong for long enough but clocks, no node that is there may be
    /// taken for gone, though managers were stopped. Where messages are lost a session may
    /// break, but not those of most nodes at once.
    pub(super) fn check_fallen(&mut self) -> Result<(), String> {
        let fallen = std::mem::take(&mut self.checkers.fallen);
        let is_mass = fallen.len() * 2 > self.machines.len();
        let is_lossy = self.profile.loss > LOSS_SMALL || (self.profile.loss > 0 && !is_mass);
        if fallen.is_empty() || is_lossy || self.now.since(self.troubled_until) < SETTLED_AFTER {
            return Ok(());
        }
        for id in fallen {
            let Some(machine) = self.machines.iter().find(|machine| machine.node == id) else { continue };
            let was_stopped = machine.resumed_at.is_some_and(|at| self.now < at + SETTLED_AFTER);
            if machine.is_up && !machine.is_lost && !was_stopped {
                return Err(format!("machine {} is there, and counts as down", machine.number));
            }
        }
        Ok(())
    }
}
