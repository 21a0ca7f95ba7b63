//! The network between machines: who can send to whom, and how long it takes.

use super::profile::Profile;
use super::random::Dice;
use std::collections::BTreeMap;
use std::time::Duration;

/// A partition: directed pairs of machines between which nothing gets through.
type Pairs = Vec<(usize, usize)>;

/// The network.
#[derive(Debug, Default)]
pub struct Network {
    partitions: BTreeMap<u64, Pairs>,
    next: u64,
}

/// What becomes of a message.
#[derive(Debug, Clone, Default)]
pub struct Fate {
    /// After which times it arrives; none = it is lost.
    pub arrivals: Vec<Duration>,
    /// What happened to it, for coverage.
    pub faults: Vec<&'static str>,
}

impl Network {
    /// Cuts some machines off from the others, in one or both directions. Answers
    /// the name of the partition.
    pub fn cut(&mut self, pairs: Pairs) -> u64 {
        self.next += 1;
        self.partitions.insert(self.next, pairs);
        self.next
    }

    /// Ends a partition.
    pub fn mend(&mut self, partition: u64) {
        self.partitions.remove(&partition);
    }

    /// Ends all partitions.
    pub fn mend_all(&mut self) {
        self.partitions.clear();
    }

    /// Whether something gets from one machine to another.
    pub fn is_open(&self, from: usize, to: usize) -> bool {
        from == to || !self.partitions.values().flatten().any(|pair| *pair == (from, to))
    }

    /// What becomes of a message between two machines.
    pub fn fate(&self, from: usize, to: usize, profile: &Profile, dice: &mut Dice) -> Fate {
        let mut fate = Fate::default();
        if !self.is_open(from, to) {
            return fate;
        }
        if dice.chance(profile.loss) {
            fate.faults.push("fault: loss");
            return fate;
        }
        let (least, most) = profile.latency;
        fate.arrivals.push(dice.between(least, most));
        if dice.chance(profile.reordering) {
            fate.faults.push("fault: reordering");
            fate.arrivals[0] += dice.between(most, most * 20);
        }
        if dice.chance(profile.duplication) {
            fate.faults.push("fault: duplication");
            fate.arrivals.push(dice.between(least, most * 10));
        }
        fate
    }
}
