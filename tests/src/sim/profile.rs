//! What kind of bad world a seed is: drawn first, so that some seeds are violent
//! in one way and quiet in all others.

use super::random::Dice;
use std::time::Duration;

/// The faults and figures of one seed. `None` = this fault does not happen.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Managers at the beginning.
    pub managers: usize,
    /// Workers.
    pub workers: usize,
    /// Shortest and longest way of a message.
    pub latency: (Duration, Duration),
    /// Messages lost, of a million.
    pub loss: u32,
    /// Messages that arrive twice, of a million.
    pub duplication: u32,
    /// Messages that are held back and overtaken, of a million.
    pub reordering: u32,
    /// Shortest and longest sync.
    pub sync: (Duration, Duration),
    /// Syncs that take a hundred times as long, of a million.
    pub stall: u32,
    /// Mean time between two partitions.
    pub partition: Option<Duration>,
    /// Mean time between two crashes.
    pub crash: Option<Duration>,
    /// Mean time between two pauses of a process.
    pub pause: Option<Duration>,
    /// Mean time between two orders to step down.
    pub step_down: Option<Duration>,
    /// Mean time between two changes of a role.
    pub role: Option<Duration>,
    /// Mean time between two kills of a daemon.
    pub daemon: Option<Duration>,
    /// Mean time between two kills of a shim.
    pub shim: Option<Duration>,
    /// Mean time between two changes of a node's availability or labels.
    pub node: Option<Duration>,
    /// Mean time between two spells in which a network daemon is slow.
    pub netd: Option<Duration>,
    /// One machine is lost for good.
    pub loses_one: bool,
    /// Clients.
    pub clients: usize,
    /// Mean time between two operations of a client.
    pub think: Duration,
    /// Log entries between two snapshots.
    pub snapshot_interval: u64,
    /// Prefix length of networks' subnets, of a pool of /16.
    pub subnet_size: u32,
    /// Events that are handed over together with later ones, of a million.
    pub batching: u32,
    /// How much a machine's boot time gains or loses at most, in millionths.
    pub drift: u32,
    /// How far wall time may be off.
    pub skew: Duration,
    /// Mean time between two settings of a wall clock.
    pub step: Option<Duration>,
    /// Mean time between two stalls: of the leader, one manager, all managers or everything.
    pub stop: Option<Duration>,
    /// Mean time between two losses of a quorum, for a while.
    pub quorum: Option<Duration>,
    /// Syncs that fail, of a million.
    pub failed_sync: u32,
    /// Mean time between two spells in which a disk is full.
    pub full: Option<Duration>,
    /// Mean time between two logs that are lost, or found to have rotted.
    pub lost_log: Option<Duration>,
    /// Mean time between two spells in which a network of a node does not work.
    pub place: Option<Duration>,
    /// Up to 40 machines, and services of up to 200 tasks.
    pub is_large: bool,
    /// Nothing fails but clocks: no node may be taken for gone then.
    pub is_calm: bool,
}

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

impl Profile {
    /// The profile of a seed.
    pub fn draw(dice: &mut Dice) -> Self {
        let managers = *dice.pick(&[1, 3, 3, 3, 3, 5, 5]);
        let every = |dice: &mut Dice, means: &[u32]| match *dice.pick(means) {
            0 => None,
            seconds => Some(S * seconds),
        };
        let mut profile = Self {
            managers,
            latency: *dice.pick(&[(MS / 10, MS), (MS / 2, 5 * MS), (MS, 60 * MS)]),
            loss: *dice.pick(&[0, 0, 2_000, 30_000, 150_000]),
            duplication: *dice.pick(&[0, 0, 10_000, 100_000]),
            reordering: *dice.pick(&[0, 0, 10_000, 100_000]),
            sync: *dice.pick(&[(MS / 10, MS / 2), (MS / 2, 4 * MS), (2 * MS, 40 * MS)]),
            stall: *dice.pick(&[0, 0, 1_000, 10_000]),
            partition: every(dice, &[0, 10, 25, 60]),
            crash: every(dice, &[0, 8, 20, 60]),
            pause: every(dice, &[0, 0, 10, 30]),
            step_down: every(dice, &[0, 0, 15, 60]),
            role: if managers > 1 { every(dice, &[0, 0, 20, 45]) } else { None },
            loses_one: managers >= 3 && dice.chance(250_000),
            clients: *dice.pick(&[1, 2, 3, 4, 6]),
            think: *dice.pick(&[60 * MS, 250 * MS, S]),
            snapshot_interval: *dice.pick(&[20, 50, 200, 1_000]),
            batching: *dice.pick(&[0, 100_000, 500_000]),
            // Drawn last, so that older choices stay as they were.
            workers: 2 + dice.below(3),
            daemon: every(dice, &[0, 10, 30]),
            shim: every(dice, &[0, 10, 30]),
            node: every(dice, &[0, 15, 45]),
            subnet_size: *dice.pick(&[20, 24, 24]),
            netd: every(dice, &[0, 10, 30]),
            drift: *dice.pick(&[0, 200, 20_000]),
            skew: *dice.pick(&[Duration::ZERO, 2 * S, 7200 * S]),
            step: every(dice, &[0, 15, 45]),
            stop: every(dice, &[0, 20, 60]),
            quorum: if managers >= 3 { every(dice, &[0, 0, 60]) } else { None },
            failed_sync: *dice.pick(&[0, 0, 200, 2_000]),
            full: every(dice, &[0, 0, 30]),
            lost_log: if managers >= 3 { every(dice, &[0, 0, 60]) } else { None },
            is_calm: dice.chance(170_000),
            place: every(dice, &[0, 0, 0, 20]),
            is_large: dice.chance(25_000),
        };
        if profile.is_large {
            profile.grow(12 + dice.below(24));
        }
        if profile.is_calm {
            profile.calm_down(*dice.pick(&[1, 3, 3]));
        }
        profile
    }

    /// Many workers, and clients that give them much to do, but seldom.
    fn grow(&mut self, workers: usize) {
        (self.workers, self.clients, self.think) = (workers, self.clients.min(2), 4 * S);
        self.snapshot_interval = self.snapshot_interval.max(200);
    }

    /// Leaves clocks and stalls alone.
    fn calm_down(&mut self, managers: usize) {
        self.managers = managers;
        (self.loss, self.duplication, self.reordering, self.stall, self.failed_sync) = (0, 0, 0, 0, 0);
        (self.partition, self.crash, self.pause, self.step_down, self.role) = (None, None, None, None, None);
        (self.daemon, self.quorum, self.full, self.lost_log, self.loses_one) = (None, None, None, None, false);
        self.place = None;
        self.sync = (MS / 10, 4 * MS);
        self.stop = Some(S * 30);
        self.step.get_or_insert(S * 30);
    }
}
