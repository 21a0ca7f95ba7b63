//! One node's network: what its network daemon was handed, and what the kernel
//! holds of it. It outlives the node's daemon, not the machine.
//!
//! Links of the chain are programmed one after the other. Each takes a while, and
//! under the fault "slow netd" a long while. Under the fault "netd killed" none is,
//! until the network daemon is back and is told at once what it missed; what the
//! kernel holds stays. Under the fault "place failed" one network of the node does not
//! work for a while: the daemon goes on with the rest, and says which it is.

use super::agents::Errand;
use super::plant::Plant;
use super::sessions::Word;
use super::{Happening, Simulation};
use skep_agent_core::Event;
use skep_model::overlay::{Endpoint, EndpointId, NodeNetwork, NodeService, OverlayChange, Peer};
use skep_model::place::{Place, PlaceFault, PlaceFaults};
use skep_model::{NetworkId, NodeId, ServiceId, Time};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

/// One link that waits to be programmed.
#[derive(Debug)]
struct Link {
    /// The agent's life, its session's term, and the chain that it belongs to.
    life: u64,
    term: u64,
    chain: u64,
    version: u64,
    is_complete: bool,
    changes: Vec<OverlayChange>,
}

/// What the kernel of one node holds.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    pub(super) peers: BTreeMap<NodeId, Peer>,
    pub(super) networks: BTreeMap<NetworkId, NodeNetwork>,
    pub(super) services: BTreeMap<ServiceId, NodeService>,
    pub(super) endpoints: BTreeMap<EndpointId, Endpoint>,
    /// When it was last changed, and in which term that was told; `None` = not
    /// since the machine was started.
    pub(super) changed: Option<(Time, u64)>,
    queue: VecDeque<Link>,
    /// Which life of the network daemon this is.
    generation: u64,
    is_away: bool,
    slow_until: Option<Time>,
    broken: Option<Broken>,
}

/// A network of a node that does not work.
#[derive(Debug)]
struct Broken {
    network: NetworkId,
    until: Time,
    /// What it was told meanwhile.
    skipped: Vec<OverlayChange>,
    /// Whether what it holds is to go before that is done.
    is_reset: bool,
}

impl Link {
    /// One link that holds what these hold, as a daemon is told that was away.
    fn together(links: impl IntoIterator<Item = Self>) -> Option<Self> {
        links.into_iter().reduce(|mut earlier, later| {
            if !later.is_complete {
                earlier.changes.extend(later.changes);
                return Self { is_complete: earlier.is_complete, changes: earlier.changes, ..later };
            }
            later
        })
    }
}

impl Kernel {
    /// The power is gone.
    pub(super) fn power_fails(&mut self) {
        *self = Self { generation: self.generation + 1, ..Self::default() };
    }

    /// The node's daemon is gone: what it has not handed over yet it never will.
    pub(super) fn daemon_dies(&mut self) {
        self.queue.truncate(if self.is_away { 0 } else { 1 });
    }

    /// Its network works again: what it was told meanwhile is done.
    fn mend(&mut self) -> bool {
        let Some(broken) = self.broken.take() else { return false };
        if broken.is_reset {
            self.networks.remove(&broken.network);
            self.endpoints.retain(|id, _| id.network != broken.network);
        }
        self.change(broken.skipped);
        true
    }

    /// Whether a network of it does not work.
    pub(super) fn is_broken(&self, network: NetworkId) -> bool {
        self.broken.as_ref().is_some_and(|broken| broken.network == network)
    }

    /// The places that do not work.
    fn faults(&self) -> PlaceFaults {
        let fault = |broken: &Broken| PlaceFault::blocking(Place::Network(broken.network), "it does not work");
        PlaceFaults::new(self.broken.as_ref().map(fault))
    }

    /// Whether everything that it was handed is programmed.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    fn apply(&mut self, link: Link, now: Time) {
        self.changed = Some((now, link.term));
        if link.is_complete {
            self.peers.clear();
            self.services.clear();
            let broken = self.broken.as_ref().map(|broken| broken.network);
            self.networks.retain(|id, _| Some(*id) == broken);
            self.endpoints.retain(|id, _| Some(id.network) == broken);
            if let Some(broken) = &mut self.broken {
                (broken.is_reset, broken.skipped) = (true, Vec::new());
            }
        }
        self.change(link.changes);
    }

    fn change(&mut self, changes: Vec<OverlayChange>) {
        for change in changes {
            if let Some(broken) = self.broken.as_mut().filter(|broken| network_of(&change) == Some(broken.network)) {
                broken.skipped.push(change);
                continue;
            }
            match change {
                OverlayChange::PutPeer(peer) => drop(self.peers.insert(peer.node, peer)),
                OverlayChange::PutNetwork(network) => drop(self.networks.insert(network.id, network)),
                OverlayChange::PutService(service) => drop(self.services.insert(service.id, service)),
                OverlayChange::PutEndpoint(endpoint) => drop(self.endpoints.insert(endpoint.id, endpoint)),
                OverlayChange::RemoveEndpoint(id) => drop(self.endpoints.remove(&id)),
                OverlayChange::RemoveService(id) => drop(self.services.remove(&id)),
                OverlayChange::RemoveNetwork(id) => drop(self.networks.remove(&id)),
                OverlayChange::RemovePeer(id) => drop(self.peers.remove(&id)),
            }
        }
    }
}

/// The network that a change belongs to alone.
fn network_of(change: &OverlayChange) -> Option<NetworkId> {
    match change {
        OverlayChange::PutNetwork(network) => Some(network.id),
        OverlayChange::RemoveNetwork(id) => Some(*id),
        OverlayChange::PutEndpoint(endpoint) => Some(endpoint.id.network),
        OverlayChange::RemoveEndpoint(id) => Some(id.network),
        OverlayChange::PutPeer(_) | OverlayChange::RemovePeer(_) => None,
        OverlayChange::PutService(_) | OverlayChange::RemoveService(_) => None,
    }
}

impl Simulation {
    /// A fault: one network of a node does not work for a while.
    pub(super) fn break_a_network(&mut self) {
        let networks: Vec<NetworkId> = self.checkers.truth().networks().map(|network| network.id).collect();
        let number = self.dice.places.below(self.machines.len());
        let length = self.dice.places.between(MS * 1_000, MS * 15_000);
        let machine = &self.machines[number];
        if networks.is_empty() || machine.is_paused || machine.kernel.broken.is_some() {
            return;
        }
        let network = *self.dice.places.pick(&networks);
        self.coverage.count("fault: place failed");
        self.note(format!("network {network} of machine {number} does not work for {length:?}"));
        let until = self.now + length;
        self.machines[number].kernel.broken = Some(Broken { network, until, skipped: Vec::new(), is_reset: false });
        self.say_places(number);
        self.after(length, Happening::Agent { machine: number, errand: Errand::PlaceWorks });
    }

    /// The time of the fault may be over.
    pub(super) fn place_works(&mut self, number: usize) -> Result<(), String> {
        let is_over = self.machines[number].kernel.broken.as_ref().is_some_and(|broken| broken.until <= self.now);
        if is_over || !self.is_chaos() { self.mend_place(number) } else { Ok(()) }
    }

    /// All networks of a node work.
    pub(super) fn mend_place(&mut self, number: usize) -> Result<(), String> {
        if !self.machines[number].kernel.mend() {
            return Ok(());
        }
        self.say_places(number);
        self.check_walks_from(number)
    }

    /// The node says which of its places do not work, in its session, if that is up.
    pub(super) fn say_places(&mut self, number: usize) {
        let Some(session) = self.machines[number].daemon.as_ref().and_then(|daemon| daemon.session_that_is_up()) else { return };
        if !self.has_plant(Plant::IgnorePlaces) {
            let faults = self.machines[number].kernel.faults();
            self.say(session, false, Word::Places(faults));
        }
    }

    /// The agent hands a link over.
    pub(super) fn hand_to_network(
        &mut self,
        number: usize,
        chain: u64,
        version: u64,
        is_complete: bool,
        changes: Vec<OverlayChange>,
    ) {
        let Some((life, term)) = self.machines[number].daemon.as_ref().map(|daemon| daemon.life_and_term()) else { return };
        let link = Link { life, term, chain, version, is_complete, changes };
        let kernel = &mut self.machines[number].kernel;
        kernel.queue.push_back(link);
        if kernel.queue.len() == 1 {
            self.program_next(number);
        }
        if self.has_plant(Plant::PublishBeforeProgrammed) {
            self.tell_agent(number, MS, Event::NetworkProgrammed { chain, version });
        }
    }

    fn program_next(&mut self, number: usize) {
        let (now, kernel) = (self.now, &mut self.machines[number].kernel);
        if kernel.queue.is_empty() || kernel.is_away {
            return;
        }
        let is_slow = kernel.slow_until.is_some_and(|until| now < until) && self.healed_at.is_none();
        let generation = kernel.generation;
        let delay = if is_slow { self.dice.nets.between(MS * 500, MS * 12_000) } else { self.dice.nets.between(MS, MS * 20) };
        self.after(delay, Happening::Agent { machine: number, errand: Errand::Programmed { generation } });
    }

    /// The oldest link is in the kernel.
    pub(super) fn programmed(&mut self, number: usize, generation: u64) -> Result<(), String> {
        let now = self.now;
        let machine = &mut self.machines[number];
        if machine.kernel.generation != generation {
            return Ok(());
        }
        let Some(link) = machine.kernel.queue.pop_front() else { return Ok(()) };
        let (life, chain, version) = (link.life, link.chain, link.version);
        let is_of_this_life = machine.daemon.as_ref().is_some_and(|daemon| daemon.life_and_term().0 == life);
        machine.kernel.apply(link, now);
        self.note(format!("machine {number} has programmed link {version} of chain {chain}"));
        if is_of_this_life {
            self.tell_agent(number, MS, Event::NetworkProgrammed { chain, version });
        }
        self.program_next(number);
        self.check_walks_from(number)
    }

    /// A fault: a node's network daemon takes very long for a while, or is away.
    pub(super) fn disturb_some_network(&mut self) {
        let machine = self.dice.nets.below(self.machines.len());
        let length = self.dice.nets.between(MS * 1_000, MS * 15_000);
        if self.dice.nets.chance(500_000) {
            self.kill_network(machine, length);
            return;
        }
        self.coverage.count("fault: slow netd");
        self.note(format!("the network daemon of machine {machine} is slow for {length:?}"));
        self.machines[machine].kernel.slow_until = Some(self.now + length);
    }

    fn kill_network(&mut self, machine: usize, length: Duration) {
        self.coverage.count("fault: netd killed");
        self.note(format!("the network daemon of machine {machine} is away for {length:?}"));
        let kernel = &mut self.machines[machine].kernel;
        kernel.is_away = true;
        kernel.generation += 1;
        let errand = Errand::NetworkBack { generation: kernel.generation };
        self.after(length, Happening::Agent { machine, errand });
    }

    /// The network daemon is back, unless it was killed again.
    pub(super) fn network_is_back(&mut self, number: usize, generation: u64) {
        if self.machines[number].kernel.generation == generation {
            self.bring_back_network(number);
        }
    }

    /// Starts the network daemon, if it is away.
    pub(super) fn bring_back_network(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        if !std::mem::take(&mut machine.kernel.is_away) {
            return;
        }
        let life = machine.daemon.as_ref().map(|daemon| daemon.life_and_term().0);
        // What a daemon of the node that is dead itself has told, nobody repeats.
        let told = std::mem::take(&mut machine.kernel.queue).into_iter().filter(|link| Some(link.life) == life);
        machine.kernel.queue.extend(Link::together(told));
        self.program_next(number);
    }
}
