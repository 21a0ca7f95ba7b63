//! What nodes are told of overlay networks. Plans are made by hand here: there is no leader.

mod barrier;
mod differences;

use super::tests::*;
use super::*;
use crate::publication::Passage;
use crate::publication::overlay::is_on_networks;
use skep_model::assignment::{AssignmentChange, Assignments};
use skep_model::endpoint::{Addresses, EndpointState, Publication, PublishMode, PublishedPort, ServiceEndpoint, Transport};
use skep_model::network::{Attachment, Network, NetworkPlan, NetworkRequest, NetworkSpec};
use skep_model::node::{NodeDescription, NodeState, NodeStatus, Underlay};
use skep_model::overlay::{EndpointId, NodeService, OverlayChange, ServiceNetwork};
use skep_model::place::{Place, PlaceFault};
use skep_model::service::{Annotations, Service, ServiceMode, ServicePlan, ServiceRecord, ServiceSpec, TaskSpec};
use skep_model::task::{Task, TaskPlan};
use skep_model::{Kind, Meta, Object, ObjectRef, Section, TaskId, TaskState};
use std::net::IpAddr;
use std::time::Duration;

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
    // Labels are the service's, as those that the node's agent fills in: not the container's.
    let tier = |value: &str| BTreeMap::from([("tier".to_owned(), value.to_owned())]);
    for (hostname, expected) in [
        ("", None),
        ("db", Some("db")),
        ("{{.Service.Name}}-{{.Task.Slot}}-{{.Node.Hostname}}", Some("web-1-n1")),
        ("{{.Service.Labels.tier}}-{{.Task.Slot}}", Some("front-1")),
    ] {
        let store = store();
        let mut spec = TaskSpec::default();
        (spec.container_spec.hostname, spec.container_spec.labels) = (hostname.into(), tier("container"));
        let task = Task { spec: Arc::new(spec), service_labels: tier("front"), ..task(1, 1) };
        let mut names = vec![task.name(), task.id.as_str()[..12].to_owned()];
        names.extend(expected.map(str::to_owned));
        assert_eq!(crate::publication::names::names(&store, &task), names);
    }
}
