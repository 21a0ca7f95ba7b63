//! What nodes are told of overlay networks, what they acknowledge, and when a
//! task may stop. Plans are made by hand here: there is no leader.

use super::tests::*;
use super::*;
use proptest::prelude::*;
use skep_model::assignment::{AssignmentChange, Assignments};
use skep_model::endpoint::{Addresses, EndpointState, PublishMode, PublishedPort, ServiceEndpoint, Transport};
use skep_model::network::{Attachment, Network, NetworkPlan, NetworkRequest, NetworkSpec};
use skep_model::node::{NodeDescription, NodeStatus, Underlay};
use skep_model::overlay::{EndpointId, NodeService, OverlayChange, ServiceNetwork};
use skep_model::place::{Place, PlaceFault};
use skep_model::service::{Annotations, Service, ServiceMode, ServicePlan, ServiceRecord, ServiceSpec, TaskSpec};
use skep_model::task::TaskPlan;
use skep_model::{Kind, Meta, Object, ObjectRef, Section, TaskState};
use std::net::IpAddr;

fn network_id(n: u8) -> NetworkId {
    NetworkId::from_random([n; 16])
}

fn service_id(n: u8) -> ServiceId {
    ServiceId::from_random([n; 16])
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn address(n: u8) -> IpAddr {
    [10, 0, 0, n].into()
}

fn network(n: u8, is_ingress: bool) -> Network {
    let annotations = Annotations { name: format!("net{n}"), ..Annotations::default() };
    let options = [("com.docker.network.driver.mtu".to_owned(), "1400".to_owned())].into();
    Network {
        id: network_id(n),
        meta: Meta::default(),
        spec: Section::new(NetworkSpec { annotations, ingress: is_ingress, options, ..NetworkSpec::default() }),
        plan: Section::new(NetworkPlan { vni: 4096 + u32::from(n), pools: Vec::new() }),
    }
}

fn service(n: u8, networks: &[u8], has_ingress_port: bool) -> Service {
    let request =
        |n: &u8| NetworkRequest { target: network_id(*n).to_string(), aliases: vec![format!("alias{n}")], any_source: false };
    let task_template = TaskSpec { networks: networks.iter().map(request).collect(), ..TaskSpec::default() };
    let port = PublishedPort {
        transport: Transport::Tcp,
        target_port: 80,
        published_port: 8080 + u16::from(n),
        publish_mode: PublishMode::Ingress,
    };
    let own = |network: &u8| (network_id(*network), Addresses { addresses: vec![address(100 + n)] });
    let endpoint = ServiceEndpoint {
        virtual_addresses: networks.iter().map(own).collect(),
        ports: has_ingress_port.then_some(port).into_iter().collect(),
    };
    let spec = ServiceSpec {
        annotations: Annotations { name: format!("service{n}"), ..Annotations::default() },
        task_template,
        mode: ServiceMode::Replicated { replicas: 1 },
        update_config: Default::default(),
        rollback_config: Default::default(),
        endpoint_spec: Default::default(),
        deadline: None,
    };
    Service {
        id: service_id(n),
        meta: Meta::default(),
        spec: Section::new(ServiceRecord { spec, previous: None, spec_version: 1 }),
        plan: Section::new(ServicePlan { endpoint, ..ServicePlan::default() }),
    }
}

/// A task on networks; its first address ends with its number.
fn attached(n: u8, node: u8, networks: &[u8]) -> Task {
    let attach = |network: &u8| Attachment {
        network: network_id(*network),
        addresses: vec![address(n)],
        aliases: Vec::new(),
        any_source: false,
    };
    Task { networks: networks.iter().map(attach).collect(), ..task(n, node) }
}

/// An agent that knows what it was told.
#[derive(Debug, Default)]
struct Node {
    version: u64,
    overlay: BTreeMap<String, OverlayChange>,
    may_stop: Vec<TaskId>,
}

/// The key of an object, and whether it is put.
fn key(change: &OverlayChange) -> (String, bool) {
    let endpoint = |id: &EndpointId| format!("endpoint {} {}", id.network, id.task);
    match change {
        OverlayChange::PutPeer(peer) => (format!("peer {}", peer.node), true),
        OverlayChange::PutNetwork(network) => (format!("network {}", network.id), true),
        OverlayChange::PutService(service) => (format!("service {}", service.id), true),
        OverlayChange::PutEndpoint(put) => (endpoint(&put.id), true),
        OverlayChange::RemovePeer(id) => (format!("peer {id}"), false),
        OverlayChange::RemoveNetwork(id) => (format!("network {id}"), false),
        OverlayChange::RemoveService(id) => (format!("service {id}"), false),
        OverlayChange::RemoveEndpoint(id) => (endpoint(id), false),
    }
}

impl Node {
    fn take(&mut self, assignments: &Assignments) {
        if assignments.is_complete {
            *self = Self::default();
        }
        assert_eq!(assignments.applies_to, self.version);
        self.version = assignments.results_in;
        check_order(&assignments.changes);
        for change in &assignments.changes {
            match change {
                AssignmentChange::Overlay(change) => self.apply(change),
                AssignmentChange::MayStop(task) => self.may_stop.push(*task),
                _ => {}
            }
        }
    }

    /// Every message is news: nothing is put as it was, nothing unknown removed.
    fn apply(&mut self, change: &OverlayChange) {
        match key(change) {
            (key, true) => {
                let old = self.overlay.insert(key, change.clone());
                assert_ne!(old.as_ref(), Some(change), "it was told before");
            }
            (key, false) => drop(self.overlay.remove(&key).expect("what is removed was told")),
        }
    }

    fn count(&self, kind: &str) -> usize {
        self.overlay.keys().filter(|key| key.starts_with(kind)).count()
    }

    fn is_published(&self, network: u8, task: u8) -> Option<bool> {
        let id = EndpointId { network: network_id(network), task: task_id(task) };
        match self.overlay.get(&format!("endpoint {} {}", id.network, id.task))? {
            OverlayChange::PutEndpoint(endpoint) => Some(endpoint.is_published),
            _ => None,
        }
    }
}

/// What needs others comes after them, and goes before them.
fn check_order(changes: &[AssignmentChange]) {
    let rank = |change: &AssignmentChange| match change {
        AssignmentChange::PutSecret(..) | AssignmentChange::PutConfig(..) => 0,
        AssignmentChange::Overlay(OverlayChange::PutPeer(_)) => 1,
        AssignmentChange::Overlay(OverlayChange::PutNetwork(_)) => 2,
        AssignmentChange::Overlay(OverlayChange::PutService(_)) => 3,
        AssignmentChange::Overlay(OverlayChange::PutEndpoint(_)) => 4,
        AssignmentChange::PutTask(_) => 5,
        AssignmentChange::MayStop(_) => 6,
        AssignmentChange::RemoveTask(_) => 7,
        AssignmentChange::Overlay(OverlayChange::RemoveEndpoint(_)) => 8,
        AssignmentChange::Overlay(OverlayChange::RemoveService(_)) => 9,
        AssignmentChange::Overlay(OverlayChange::RemoveNetwork(_)) => 10,
        AssignmentChange::Overlay(OverlayChange::RemovePeer(_)) => 11,
        AssignmentChange::RemoveSecret(..) | AssignmentChange::RemoveConfig(..) => 12,
    };
    assert!(changes.iter().map(rank).is_sorted(), "{changes:?}");
}

/// A store, its dispatcher, and nodes 1 to 3 with what they were told.
struct World {
    store: Store,
    dispatcher: Dispatcher,
    now: Time,
    nodes: BTreeMap<u8, Node>,
    sessions: u8,
}

impl World {
    fn new() -> Self {
        let mut store = store();
        let mut third = Transaction::new(START);
        let model = store.node(node_id(1)).expect("the first node");
        let node = skep_model::node::Node { id: node_id(3), ..skep_model::node::Node::clone(model) };
        third.writes.push(Write::Create(Object::Node(Box::new(node))));
        store.apply(store.version + 1, &third).expect("nothing else writes");
        let mut world =
            Self { dispatcher: Dispatcher::new(&store, START, 1), store, now: START, nodes: BTreeMap::new(), sessions: 100 };
        (1..=3).for_each(|n| world.open(n));
        world
    }

    fn open(&mut self, n: u8) {
        self.sessions += 1;
        let underlay = Some(Underlay { address: [192, 0, 2, n].into(), occupied: Vec::new(), lacks_ipv6: String::new() });
        let description = NodeDescription { hostname: format!("n{n}"), underlay, ..NodeDescription::default() };
        let hello = Hello { description, ..hello(n, Vec::new()) };
        self.dispatcher.opened(self.now, &self.store, session_id(self.sessions), hello);
        super::tests::write(&mut self.store, &mut self.dispatcher, self.now);
        self.tell();
    }

    fn session(&self, n: u8) -> SessionId {
        self.dispatcher.by_node[&node_id(n)]
    }

    fn tell(&mut self) {
        for action in self.dispatcher.actions(&self.store, self.now) {
            let Action::SendAssignments { session, assignments, .. } = action else { continue };
            let told =
                (1..=3).find(|n| self.dispatcher.by_node.get(&node_id(*n)) == Some(&session)).expect("a session of a node");
            self.nodes.entry(told).or_default().take(&assignments);
        }
    }

    fn apply(&mut self, write: Write) {
        self.apply_silently(write);
        self.tell();
    }

    /// Without telling anybody yet.
    fn apply_silently(&mut self, write: Write) {
        let mut transaction = Transaction::new(self.now);
        transaction.writes.push(write);
        super::tests::apply(&mut self.store, &mut self.dispatcher, &transaction);
    }

    fn create(&mut self, object: Object) {
        self.apply(Write::Create(object));
    }

    fn publish(&mut self, n: u8, publication: Publication) {
        let plan = self.store.task(task_id(n)).expect("the task").plan.value.clone();
        let endpoint = EndpointState { publication, since: self.now };
        let desired = if publication == Publication::Withdrawn { TaskState::Shutdown } else { plan.desired };
        self.apply(Write::TaskPlan(task_id(n), TaskPlan { endpoint, desired, ..plan }));
    }

    fn observe(&mut self, n: u8, state: TaskState) {
        self.apply(Write::TaskStatus(task_id(n), super::tests::status(state)));
    }

    fn set_state(&mut self, n: u8, state: NodeState) {
        let status = NodeStatus { state, ..NodeStatus::default() };
        self.apply(Write::NodeStatus(node_id(n), status));
    }

    /// A node has programmed everything that it was told.
    fn program(&mut self, n: u8) {
        let version = self.nodes[&n].version;
        self.dispatcher.programmed(&self.store, self.session(n), version);
        self.pass();
    }

    /// Lets open gates be seen, as the leader's turn does.
    fn pass(&mut self) -> BTreeSet<ServiceId> {
        let services = self.dispatcher.pass(&self.store, self.now);
        self.tell();
        services
    }

    fn passage(&self, n: u8) -> Passage {
        self.dispatcher.barrier().passage(self.store.task(task_id(n)).expect("the task"))
    }

    /// One network, one service, task 1 on node 1 and task 2 on node 2, both running and programmed.
    fn with_two_tasks() -> Self {
        let mut world = Self::new();
        world.create(Object::Network(Box::new(network(1, false))));
        world.create(Object::Service(Box::new(service(1, &[1], false))));
        for n in [1, 2] {
            world.create(Object::Task(Box::new(attached(n, n, &[1]))));
            world.observe(n, TaskState::Running);
        }
        world.program(1);
        world.program(2);
        world
    }
}

#[test]
fn a_node_is_told_of_the_networks_it_takes_part_in() {
    let mut world = World::new();
    world.create(Object::Network(Box::new(network(1, false))));
    world.create(Object::Service(Box::new(service(1, &[1], false))));
    assert_eq!((world.nodes[&1].count("peer"), world.nodes[&1].count("network")), (3, 0), "peers are told to all");
    world.create(Object::Task(Box::new(attached(1, 1, &[1]))));
    let counts = |world: &World, n: u8| ["network", "service", "endpoint"].map(|kind| world.nodes[&n].count(kind));
    assert_eq!((counts(&world, 1), counts(&world, 2)), ([1, 1, 1], [0, 0, 0]));
    let mtu = |change: &OverlayChange| if let OverlayChange::PutNetwork(network) = change { network.mtu } else { None };
    assert_eq!(world.nodes[&1].overlay.values().find_map(mtu), Some(1400));
    world.create(Object::Task(Box::new(attached(2, 2, &[1]))));
    assert_eq!((counts(&world, 1), counts(&world, 2)), ([1, 1, 2], [1, 1, 2]));
    world.observe(2, TaskState::Failed);
    assert_eq!((counts(&world, 1), counts(&world, 2)), ([1, 1, 1], [0, 0, 0]), "the last task has ended");
    world.open(1);
    assert_eq!((counts(&world, 1), world.nodes[&1].count("peer")), ([1, 1, 1], 3), "a new session is told everything");
}

#[test]
fn every_node_serves_the_mesh_while_a_port_is_published() {
    let mut world = World::new();
    world.create(Object::Network(Box::new(network(9, true))));
    assert_eq!(world.nodes[&3].count("network"), 0);
    world.create(Object::Service(Box::new(service(1, &[], true))));
    assert_eq!((world.nodes[&3].count("network"), world.nodes[&3].count("service")), (1, 1));
    world.create(Object::Task(Box::new(attached(1, 1, &[9]))));
    assert_eq!(world.nodes[&3].is_published(9, 1), Some(false));
    world.observe(1, TaskState::Running);
    world.publish(1, Publication::Published);
    assert_eq!(world.nodes[&3].is_published(9, 1), Some(true));
    for n in [1, 2] {
        world.program(n);
        assert_eq!(world.passage(1), Passage::Waiting);
    }
    world.program(3);
    assert_eq!(world.passage(1), Passage::Open);
    world.observe(1, TaskState::Complete);
    world.apply(Write::Remove(ObjectRef { kind: Kind::Service, id: service_id(1).0 }));
    assert_eq!(world.nodes[&3].overlay.keys().filter(|key| !key.starts_with("peer")).count(), 0);
}

#[test]
fn names_are_the_containers_and_the_host_name() {
    for (hostname, expected) in
        [("", None), ("db", Some("db")), ("{{.Service.Name}}-{{.Task.Slot}}-{{.Node.Hostname}}", Some("web-1-n1"))]
    {
        let store = store();
        let mut spec = TaskSpec::default();
        spec.container_spec.hostname = hostname.into();
        let task = Task { spec: Arc::new(spec), ..task(1, 1) };
        let mut names = vec![task.name(), task.id.as_str()[..12].to_owned()];
        names.extend(expected.map(str::to_owned));
        assert_eq!(super::names::names(&store, &task), names);
    }
}

#[test]
fn a_publication_passes_when_every_node_has_programmed_it() {
    let mut world = World::with_two_tasks();
    world.publish(1, Publication::Published);
    assert_eq!((world.nodes[&1].is_published(1, 1), world.nodes[&2].is_published(1, 1)), (Some(true), Some(true)));
    assert_eq!(world.passage(1), Passage::Waiting);
    world.program(1);
    assert_eq!(world.passage(1), Passage::Waiting);
    // An older link says nothing of this one.
    let old = world.nodes[&2].version - 1;
    world.dispatcher.programmed(&world.store, world.session(2), old);
    assert_eq!(world.passage(1), Passage::Waiting);
    world.dispatcher.programmed(&world.store, world.session(2), old + 1);
    assert_eq!(world.passage(1), Passage::Open);
    assert_eq!(world.pass(), [service_id(1)].into(), "the leader looks at it once");
    assert_eq!(world.pass(), BTreeSet::new());
}

#[test]
fn a_straggler_is_named_when_the_timeout_is_over_until_it_catches_up() {
    let mut world = World::with_two_tasks();
    world.publish(1, Publication::Published);
    world.program(1);
    assert_eq!(world.dispatcher.barrier().next_deadline(), Some(world.now + seconds(5)));
    world.now = world.now + seconds(5);
    assert_eq!(world.pass(), [service_id(1)].into());
    assert_eq!(world.passage(1), Passage::OpenedWithout(vec![node_id(2)]));
    world.program(2);
    assert_eq!(world.passage(1), Passage::Open);
    assert_eq!(world.dispatcher.barrier().next_deadline(), None);
}

#[test]
fn a_task_may_stop_when_every_node_has_withdrawn_it() {
    let mut world = World::with_two_tasks();
    world.publish(1, Publication::Published);
    (1..=2).for_each(|n| world.program(n));
    world.publish(1, Publication::Withdrawn);
    assert_eq!(world.nodes[&2].is_published(1, 1), Some(false));
    world.program(1);
    assert_eq!(world.nodes[&1].may_stop, []);
    world.program(2);
    assert_eq!(world.nodes[&1].may_stop, [task_id(1)]);
    assert_eq!(world.nodes[&2].may_stop, [], "only its own node is told");
    world.create(Object::Task(Box::new(attached(3, 1, &[1]))));
    assert_eq!(world.nodes[&1].may_stop.len(), 1, "once in a session");
    world.open(1);
    assert_eq!(world.nodes[&1].may_stop, [task_id(1)], "and again in the next one");
}

#[test]
fn a_task_may_stop_without_a_node_that_is_late_or_down() {
    for is_down in [false, true] {
        let mut world = World::with_two_tasks();
        world.publish(1, Publication::Published);
        (1..=2).for_each(|n| world.program(n));
        world.publish(1, Publication::Withdrawn);
        world.program(1);
        assert_eq!(world.nodes[&1].may_stop, []);
        if is_down {
            world.set_state(2, NodeState::Down);
        } else {
            world.now = world.now + seconds(5);
        }
        world.pass();
        assert_eq!(world.nodes[&1].may_stop, [task_id(1)]);
        assert_eq!(world.passage(1), if is_down { Passage::Open } else { Passage::OpenedWithout(vec![node_id(2)]) });
    }
}

#[test]
fn who_leaves_the_network_leaves_the_barrier() {
    let mut world = World::with_two_tasks();
    world.publish(1, Publication::Published);
    world.program(1);
    assert_eq!(world.passage(1), Passage::Waiting);
    world.observe(2, TaskState::Failed);
    assert_eq!(world.passage(1), Passage::Open);
    // And who joins it is waited for while it is under way.
    world.publish(1, Publication::Withdrawn);
    world.publish(1, Publication::Published);
    world.create(Object::Task(Box::new(attached(3, 3, &[1]))));
    world.program(1);
    assert_eq!(world.passage(1), Passage::Waiting);
    world.program(3);
    assert_eq!(world.passage(1), Passage::Open);
}

#[test]
fn a_node_that_comes_back_is_waited_for_again() {
    let mut world = World::with_two_tasks();
    world.publish(1, Publication::Published);
    (1..=2).for_each(|n| world.program(n));
    world.set_state(2, NodeState::Down);
    world.publish(1, Publication::Withdrawn);
    world.open(2);
    world.program(1);
    assert_eq!(world.passage(1), Passage::Waiting, "its network is as it was when it went down");
    world.program(2);
    assert_eq!(world.passage(1), Passage::Open);
}

#[test]
fn a_publication_waits_only_for_places_that_it_needs() {
    let fault = |place: Place| PlaceFaults::new([PlaceFault::blocking(place, "it does not work")]);
    let table = [
        (Place::Node, false),
        (Place::Port(Transport::Tcp, 8080), false),
        (Place::Network(network_id(1)), true),
        (Place::Network(network_id(9)), false),
        (Place::Service(service_id(1)), true),
        (Place::Service(service_id(9)), false),
        (Place::Task(task_id(1)), true),
        (Place::Task(task_id(2)), false),
    ];
    for (place, is_held) in table {
        let mut world = World::with_two_tasks();
        world.publish(1, Publication::Published);
        world.program(1);
        world.dispatcher.places_failed(&world.store, world.session(2), fault(place));
        world.program(2);
        let expected = if is_held { Passage::Waiting } else { Passage::Open };
        assert_eq!(world.passage(1), expected, "{place}");
        world.dispatcher.places_failed(&world.store, world.session(2), PlaceFaults::default());
        assert_eq!(world.passage(1), Passage::Open, "{place} works again");
    }
    let mut world = World::with_two_tasks();
    world.publish(1, Publication::Published);
    world.program(1);
    let lasting = PlaceFaults::new([PlaceFault::lasting(Place::Network(network_id(1)), "IPv4 only")]);
    world.dispatcher.places_failed(&world.store, world.session(2), lasting);
    world.program(2);
    assert_eq!(world.passage(1), Passage::Open, "what stays as it is holds nobody");
}

#[test]
fn a_gate_that_a_fault_kept_shut_opens_in_time_and_names_the_node() {
    let mut world = World::with_two_tasks();
    world.publish(1, Publication::Published);
    world.program(1);
    let faults = PlaceFaults::new([PlaceFault::blocking(Place::Network(network_id(1)), "no link has the address")]);
    world.dispatcher.places_failed(&world.store, world.session(2), faults.clone());
    world.program(2);
    // The node's status says why; a session that ended and came back says it again.
    let told = world.dispatcher.transactions(&world.store, world.now);
    let status = told.iter().flat_map(|transaction| &transaction.writes).find_map(|write| match write {
        Write::NodeStatus(id, status) if *id == node_id(2) => Some(status),
        _ => None,
    });
    assert_eq!(status.map(|status| &status.faults), Some(&faults));
    world.now = world.now + seconds(60);
    world.pass();
    assert_eq!(world.passage(1), Passage::OpenedWithout(vec![node_id(2)]));
}

#[test]
fn what_was_told_in_a_session_that_broke_is_told_again() {
    let mut world = World::with_two_tasks();
    world.publish(1, Publication::Published);
    world.program(1);
    let session = world.session(2);
    world.dispatcher.closed(world.now, session, false);
    world.dispatcher.programmed(&world.store, session, 99);
    assert_eq!(world.passage(1), Passage::Waiting, "a session that ended says nothing");
    world.open(2);
    assert_eq!(world.passage(1), Passage::Waiting);
    world.program(2);
    assert_eq!(world.passage(1), Passage::Open);
}

#[test]
fn a_new_leader_has_everything_acknowledged_anew_and_does_not_hang() {
    let mut world = World::with_two_tasks();
    world.publish(1, Publication::Published);
    (1..=2).for_each(|n| world.program(n));
    world.publish(1, Publication::Withdrawn);
    world.now = world.now + seconds(60);
    world.dispatcher = Dispatcher::new(&world.store, world.now, 2);
    (1..=3).for_each(|n| world.open(n));
    assert_eq!((world.passage(1), &world.nodes[&1].may_stop[..]), (Passage::Waiting, &[][..]));
    world.program(1);
    world.now = world.now + seconds(5);
    world.pass();
    assert_eq!(world.passage(1), Passage::OpenedWithout(vec![node_id(2)]));
    assert_eq!(world.nodes[&1].may_stop, [task_id(1)]);
}

#[test]
fn what_was_taken_back_before_it_was_told_is_no_news() {
    let mut world = World::with_two_tasks();
    let version = world.nodes[&2].version;
    let plan = world.store.task(task_id(1)).expect("the task").plan.value.clone();
    for publication in [Publication::Published, Publication::Withdrawn] {
        let endpoint = EndpointState { publication, since: world.now };
        world.apply_silently(Write::TaskPlan(task_id(1), TaskPlan { endpoint, ..plan.clone() }));
    }
    world.tell();
    assert_eq!(world.nodes[&2].version, version, "nothing is told");
    world.program(1);
    world.pass();
    assert_eq!(world.passage(1), Passage::Open, "and nothing waited for");
}

/// One random change.
#[derive(Clone, Debug)]
enum Step {
    Task { n: u8, node: u8, networks: Vec<u8> },
    State(u8, TaskState),
    Publish(u8, Publication),
    RemoveTask(u8),
    Service { n: u8, networks: Vec<u8>, has_port: bool },
    RemoveService(u8),
    Network(u8),
    RemoveNetwork(u8),
    Open(u8),
    Tell,
}

fn step() -> impl Strategy<Value = Step> {
    let networks = || prop::sample::subsequence(vec![1, 2, 3], 0..=3);
    let publication = prop::sample::select(vec![Publication::Unpublished, Publication::Published, Publication::Withdrawn]);
    let state = prop::sample::select(vec![TaskState::Assigned, TaskState::Running, TaskState::Failed]);
    prop_oneof![
        4 => (1..8_u8, 1..4_u8, networks()).prop_map(|(n, node, networks)| Step::Task { n, node, networks }),
        2 => (1..8_u8, state).prop_map(|(n, state)| Step::State(n, state)),
        2 => (1..8_u8, publication).prop_map(|(n, publication)| Step::Publish(n, publication)),
        1 => (1..8_u8).prop_map(Step::RemoveTask),
        2 => (1..4_u8, networks(), any::<bool>()).prop_map(|(n, networks, has_port)| Step::Service { n, networks, has_port }),
        1 => (1..4_u8).prop_map(Step::RemoveService),
        2 => (1..4_u8).prop_map(Step::Network),
        1 => (1..4_u8).prop_map(Step::RemoveNetwork),
        1 => (1..4_u8).prop_map(Step::Open),
        3 => Just(Step::Tell),
    ]
}

fn take_step(world: &mut World, step: &Step) {
    let write = match step {
        Step::Task { n, node, networks } if world.store.task(task_id(*n)).is_none() => {
            let task = Task { service_id: service_id(1 + n % 3), ..attached(*n, *node, networks) };
            Write::Create(Object::Task(Box::new(task)))
        }
        Step::State(n, state) if world.store.task(task_id(*n)).is_some() => {
            Write::TaskStatus(task_id(*n), super::tests::status(*state))
        }
        Step::Publish(n, publication) => {
            let Some(task) = world.store.task(task_id(*n)) else { return };
            let endpoint = EndpointState { publication: *publication, since: world.now };
            Write::TaskPlan(task_id(*n), TaskPlan { endpoint, ..task.plan.value.clone() })
        }
        Step::RemoveTask(n) if world.store.task(task_id(*n)).is_some() => {
            Write::Remove(ObjectRef { kind: Kind::Task, id: task_id(*n).0 })
        }
        Step::Service { n, networks, has_port } => {
            let service = service(*n, networks, *has_port);
            match world.store.service(service_id(*n)) {
                None => Write::Create(Object::Service(Box::new(service))),
                Some(_) => {
                    world.apply_silently(Write::ServicePlan(service.id, service.plan.value));
                    Write::ServiceSpec(service.id, Box::new(service.spec.value))
                }
            }
        }
        Step::RemoveService(n) if world.store.service(service_id(*n)).is_some() => {
            Write::Remove(ObjectRef { kind: Kind::Service, id: service_id(*n).0 })
        }
        Step::Network(n) if world.store.network(network_id(*n)).is_none() => {
            Write::Create(Object::Network(Box::new(network(*n, *n == 3))))
        }
        Step::RemoveNetwork(n) if world.store.network(network_id(*n)).is_some() => {
            let object = ObjectRef { kind: Kind::Network, id: network_id(*n).0 };
            // One that is in use stays.
            match world.store.user_of(object) {
                Some(_) => return,
                None => Write::Remove(object),
            }
        }
        Step::Open(n) => return world.open(*n),
        Step::Tell => return world.tell(),
        _ => return,
    };
    world.apply_silently(write);
}

/// What a node has to know, read off the store without any index.
fn expected(store: &Store, node: NodeId) -> BTreeSet<String> {
    let on = |task: &&Arc<Task>, network: NetworkId| {
        is_on_networks(task) && task.networks.iter().any(|attachment| attachment.network == network)
    };
    let has_mesh = store.services().any(|service| !service.plan.endpoint.ports.is_empty());
    let takes_part = |network: &&Arc<Network>| {
        store.tasks_of_node(node).any(|task| on(&task, network.id)) || (network.spec.ingress && has_mesh)
    };
    let networks: BTreeSet<NetworkId> = store.networks().filter(takes_part).map(|network| network.id).collect();
    let mut keys: BTreeSet<String> = networks.iter().map(|id| format!("network {id}")).collect();
    keys.extend(store.nodes().map(|node| format!("peer {}", node.id)));
    for task in store.tasks().filter(|task| is_on_networks(task)) {
        let told = task.networks.iter().filter(|attachment| networks.contains(&attachment.network));
        let is_published = task.plan.endpoint.publication == Publication::Published;
        keys.extend(told.map(|attachment| format!("endpoint {} {} {is_published}", attachment.network, task.id)));
    }
    let has_ingress = store.networks().find(|network| network.spec.ingress).map(|network| network.id);
    for service in store.services() {
        let template = &service.spec.spec.task_template;
        let has_port = !service.plan.endpoint.ports.is_empty();
        let is_on = |network: &&NetworkId| {
            template.networks.iter().any(|request| request.target == network.to_string())
                || store.tasks_of_service(service.id).any(|task| on(&task, **network))
                || (has_port && has_ingress == Some(**network))
        };
        let on: Vec<String> = networks.iter().filter(is_on).map(ToString::to_string).collect();
        if !on.is_empty() {
            keys.insert(format!("service {} {}", service.id, on.join(" ")));
        }
    }
    keys
}

fn known(node: &Node) -> BTreeSet<String> {
    let describe = |(key, change): (&String, &OverlayChange)| match change {
        OverlayChange::PutEndpoint(endpoint) => format!("{key} {}", endpoint.is_published),
        OverlayChange::PutService(NodeService { networks, .. }) => {
            let on: Vec<String> = networks.iter().map(|ServiceNetwork { network, .. }| network.to_string()).collect();
            format!("{key} {}", on.join(" "))
        }
        _ => key.clone(),
    };
    node.overlay.iter().map(describe).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever changes and whenever nodes are told, what they were told sums up to
    /// what there is, and nothing is told twice.
    #[test]
    fn differences_add_up(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            take_step(&mut world, step);
        }
        world.tell();
        for (n, node) in &world.nodes {
            prop_assert_eq!(known(node), expected(&world.store, node_id(*n)), "node {}", n);
        }
        // Once everything is programmed, no gate waits.
        (1..=3).for_each(|n| world.program(n));
        for task in world.store.tasks() {
            prop_assert_eq!(world.dispatcher.barrier().passage(task), Passage::Open);
        }
        prop_assert_eq!(world.dispatcher.barrier().next_deadline(), None);
    }
}
