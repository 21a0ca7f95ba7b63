//! The manager's core at the scale of large clusters: one manager, whose log is durable at
//! once, with all its agents in one thread. What is measured is the time of that thread
//! inside the core, on a machine that does nothing else: admission, raft, the store, the
//! leader's turns and what the agents are to be told. Encoding to the wire, sealing and the
//! disk are its shell's.
//!
//! Time is virtual. Agents do at once what they are told.

use crate::Row;
use anyhow::Context as _;
use skep_manager_core::manager::{Config, Manager};
use skep_manager_core::store::SnapshotContent;
use skep_manager_core::{Action, Event, Recovered, Ticket};
use skep_model::assignment::{AssignmentChange, Hello, StatusUpdate};
use skep_model::cluster::{Cluster, ClusterPlan, ClusterSpec};
use skep_model::node::{Availability, ManagerStatus, Node, NodeDescription, NodePlan, NodeSpec, NodeStatus, Role, Underlay};
use skep_model::request::Mutation;
use skep_model::resources::Resources;
use skep_model::service::{Annotations, Platform, RestartPolicy, ServiceMode, ServiceSpec, TaskSpec, UpdateConfig};
use skep_model::task::{ContainerStatus, Task};
use skep_model::{ClusterId, Meta, NodeId, Now, RequestId, Section, SessionId, TaskId, TaskState, Time};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Nodes × tasks.
const SIZES: [(usize, u64); 4] = [(100, 1_000), (100, 10_000), (1_000, 10_000), (1_000, 100_000)];
/// Replicas of each service that is placed.
const REPLICAS: u64 = 100;
/// Tasks of one service that change, and as many of the other, one after the other.
const CHANGES: usize = 30;
/// The service that is large, and the one that is small.
const LARGE: u64 = 100_000;
/// An update of so many replicas, by one of [`REPLICAS`].
const UPDATED: u64 = 10_000;
/// Events that are given before the manager is asked what follows, as a shell does.
const BATCH: usize = 512;
/// The longest a measurement may take, in virtual time.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// A manager and its agents.
struct World {
    manager: Manager,
    now: Time,
    sessions: BTreeMap<SessionId, NodeId>,
    waiting: VecDeque<Event>,
    n_requests: u64,
    /// What the core has used.
    used: Duration,
    /// The most that one pass has used.
    longest: Duration,
    refused: Option<String>,
}

fn id(kind: u8, number: usize) -> [u8; 16] {
    let mut id = [kind; 16];
    id[..8].copy_from_slice(&(number as u64).to_be_bytes());
    id
}

fn config() -> Config {
    Config {
        node: NodeId::from_random(id(1, 0)),
        raft_id: 1,
        address: String::new(),
        format_max: 1,
        peers: BTreeMap::from([(1, "10.0.0.1:2377".to_owned())]),
        planted_panic: None,
    }
}

fn at(time: Time) -> Now {
    Now { boot: time, wall: time }
}

/// What is asked for: on nodes of one label, spread over another.
fn spec(name: &str, replicas: u64) -> ServiceSpec {
    let mut task_template =
        TaskSpec { restart_policy: RestartPolicy { delay: Duration::ZERO, ..RestartPolicy::default() }, ..TaskSpec::default() };
    task_template.container_spec.image = "app:1".into();
    task_template.placement.constraints = vec!["engine.labels.disk==ssd".into()];
    task_template.placement.spread = vec!["engine.labels.zone".into()];
    task_template.resources.reservations = Resources { nano_cpus: 1_000_000, memory_bytes: 4 << 20 };
    let update = UpdateConfig { parallelism: 10, monitor: Duration::ZERO, ..UpdateConfig::default() };
    ServiceSpec {
        annotations: Annotations { name: name.into(), ..Annotations::default() },
        task_template,
        mode: ServiceMode::Replicated { replicas },
        update_config: update,
        rollback_config: update,
        deadline: None,
        endpoint_spec: Default::default(),
    }
}

impl World {
    /// A cluster with so many nodes, each with a session.
    fn new(n_nodes: usize) -> anyhow::Result<Self> {
        let now = Time::from_millis(1_000_000);
        let mut world = Self {
            manager: Manager::new(config(), 1, Recovered::bootstrap(1), at(now)),
            now,
            sessions: BTreeMap::new(),
            waiting: VecDeque::new(),
            n_requests: 0,
            used: Duration::ZERO,
            longest: Duration::ZERO,
            refused: None,
        };
        world.until("an election", |world| world.manager.status().is_ready)?;
        world.ask(bootstrap())?;
        for number in 1..n_nodes {
            let mutation = Mutation::RegisterNode {
                node: NodeId::from_random(id(1, number)),
                role: Role::Worker,
                availability: Availability::Active,
                hostname: format!("n{number}"),
                certificate_expires: now + Duration::from_secs(90 * 24 * 3600),
                addresses: Default::default(),
            };
            world.ask(mutation)?;
        }
        (0..n_nodes).for_each(|number| world.open(number));
        world.pass();
        Ok(world)
    }

    fn open(&mut self, number: usize) {
        let (session, node) = (SessionId::from_random(id(2, number)), NodeId::from_random(id(1, number)));
        let [high, low] = (number as u16 + 1).to_be_bytes();
        let labels = [("zone", format!("z{}", number % 10)), ("disk", (if number % 4 == 3 { "hdd" } else { "ssd" }).to_owned())];
        let description = NodeDescription {
            hostname: format!("n{number}"),
            platform: Platform { architecture: "amd64".into(), os: "linux".into() },
            resources: Resources { nano_cpus: 64_000_000_000, memory_bytes: 256 << 30 },
            engine_version: "1".into(),
            engine_labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
            underlay: Some(Underlay { address: [10, 1, high, low].into(), occupied: Vec::new(), lacks_ipv6: String::new() }),
        };
        let (address, not_ready) = (format!("10.1.{high}.{low}"), String::new());
        let certificate_expires = self.now + Duration::from_secs(90 * 24 * 3600);
        let hello = Hello { node, description, statuses: Vec::new(), address, certificate_expires, not_ready };
        self.sessions.insert(session, node);
        self.waiting.push_back(Event::SessionOpened { session, hello: Box::new(hello) });
    }

    /// Asks for a change and waits until it is agreed.
    fn ask(&mut self, mutation: Mutation) -> anyhow::Result<()> {
        self.n_requests += 1;
        let event = Event::Request {
            ticket: Ticket(self.n_requests),
            request: RequestId(id(3, self.n_requests as usize)),
            mutation: Box::new(mutation),
        };
        self.waiting.push_back(event);
        self.pass();
        self.refused.take().map_or(Ok(()), |why| Err(anyhow::anyhow!("a request was refused: {why}")))
    }

    /// Gives what waits, until nothing more follows at this moment.
    fn pass(&mut self) {
        while !self.waiting.is_empty() {
            let events: Vec<Event> = self.waiting.drain(..self.waiting.len().min(BATCH)).collect();
            self.give(events);
        }
    }

    fn give(&mut self, events: Vec<Event>) {
        let (now, before) = (at(self.now), Instant::now());
        for event in events {
            self.manager.handle(now, event);
        }
        let actions = self.manager.take_actions();
        let took = before.elapsed();
        self.used += took;
        self.longest = self.longest.max(took);
        for action in actions {
            self.carry_out(action);
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Persist(persist) => self.waiting.push_back(Event::Persisted { n: persist.n }),
            Action::SaveSnapshot { metadata, .. } => self.waiting.push_back(Event::SnapshotSaved { index: metadata.index }),
            Action::Reply { result: Err(refusal), .. } => self.refused = Some(refusal.to_string()),
            Action::SendAssignments { session, assignments, .. } => {
                let updates: Vec<StatusUpdate> = assignments.changes.iter().filter_map(observed).collect();
                if !updates.is_empty() {
                    self.waiting.push_back(Event::Status { session, updates });
                }
                self.waiting.push_back(Event::Programmed { session, version: assignments.results_in });
            }
            _ => {}
        }
    }

    /// Goes on until something is so: everything happens when it is due.
    fn until(&mut self, what: &str, is: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let end = self.now + PATIENCE;
        loop {
            self.pass();
            if is(self) {
                return Ok(());
            }
            anyhow::ensure!(self.now < end, "{what} did not come within {PATIENCE:?}");
            self.now = self.manager.next_wakeup().map_or(end, |at| at.max(self.now + Duration::from_micros(100)));
            self.waiting.push_back(Event::Tick);
        }
    }

    fn create(&mut self, name: &str, replicas: u64) -> anyhow::Result<()> {
        self.ask(Mutation::CreateService { spec: Box::new(spec(name, replicas)) })
    }

    /// Tasks of a service that run with the newest spec.
    fn running(&self, name: &str) -> u64 {
        let service = self.manager.store().services().find(|service| service.spec.spec.annotations.name == name);
        service.and_then(|service| service.plan.deployment.as_ref()).map_or(0, |deployment| deployment.running)
    }

    fn is_converged(&self, name: &str) -> bool {
        use skep_model::deployment::DeploymentState::Converged;
        let service = self.manager.store().services().find(|service| service.spec.spec.annotations.name == name);
        service.and_then(|service| service.plan.deployment.as_ref()).is_some_and(|deployment| deployment.state == Converged)
    }

    fn a_task(&self, name: &str, skip: usize) -> anyhow::Result<(TaskId, NodeId)> {
        let of_service = |task: &&std::sync::Arc<Task>| task.service_name == name && task.status.state == TaskState::Running;
        let task = self.manager.store().tasks().filter(of_service).nth(skip).context("a task that runs")?;
        Ok((task.id, task.plan.node.context("its node")?))
    }

    /// A task ends by itself and is replaced; what the core has used for that.
    fn replace(&mut self, name: &str, skip: usize, replicas: u64) -> anyhow::Result<Duration> {
        let (task, node) = self.a_task(name, skip)?;
        let session = *self.sessions.iter().find(|(_, of)| **of == node).context("its node has a session")?.0;
        let mut status = self.manager.store().task(task).context("it is there")?.status.value.clone();
        status.state = TaskState::Failed;
        status.error = "task: non-zero exit (1)".into();
        let before = self.used;
        self.waiting.push_back(Event::Status { session, updates: vec![StatusUpdate { task, status }] });
        self.pass();
        self.until("a replacement", |world| world.running(name) == replicas)?;
        Ok(self.used - before)
    }
}

/// What an agent says of a change that it is told.
fn observed(change: &AssignmentChange) -> Option<StatusUpdate> {
    let AssignmentChange::PutTask(task) = change else { return None };
    let state = task.status.state;
    let next = match task.plan.desired {
        desired if desired > TaskState::Running && state <= TaskState::Running => TaskState::Shutdown,
        TaskState::Running if state < TaskState::Running => TaskState::Running,
        TaskState::Ready if state < TaskState::Ready => TaskState::Ready,
        _ => return None,
    };
    let mut status = task.status.value.clone();
    status.state = next;
    if next == TaskState::Running {
        status.container = Some(ContainerStatus { container_id: task.id.to_string(), pid: 1, exit_code: 0 });
    }
    Some(StatusUpdate { task: task.id, status })
}

fn bootstrap() -> Mutation {
    let spec = ClusterSpec { heartbeat_period: Duration::from_secs(600), ..ClusterSpec::default() };
    let cluster = Cluster {
        id: ClusterId::from_random([1; 16]),
        meta: Meta::default(),
        spec: Section::new(spec),
        plan: Section::new(ClusterPlan { root_ca: "root".into(), format: 1, ..ClusterPlan::default() }),
    };
    let manager = ManagerStatus { raft_id: 1, address: "10.0.0.1:2377".into(), format_max: 1, unreachable: false };
    let node = Node {
        id: NodeId::from_random(id(1, 0)),
        meta: Meta::default(),
        spec: Section::new(NodeSpec { desired_role: Role::Manager, ..NodeSpec::default() }),
        description: Section::new(NodeDescription { hostname: "n0".into(), ..NodeDescription::default() }),
        status: Section::new(NodeStatus::default()),
        plan: Section::new(NodePlan { role: Role::Manager, manager: Some(manager), ..NodePlan::default() }),
    };
    Mutation::Bootstrap { cluster: Box::new(cluster), node: Box::new(node) }
}

/// Services of a hundred replicas until all run; and the election after it.
fn placement(n_nodes: usize, n_tasks: u64) -> anyhow::Result<Vec<Row>> {
    let mut world = World::new(n_nodes)?;
    let before = world.used;
    world.longest = Duration::ZERO;
    for number in 0..n_tasks / REPLICAS {
        world.create(&format!("s{number}"), REPLICAS)?;
    }
    let all = |world: &World| {
        let running = |task: &&std::sync::Arc<Task>| task.status.state == TaskState::Running;
        world.manager.store().tasks().filter(running).count() as u64 == n_tasks
    };
    world.until("all tasks", all)?;
    let (used, longest) = (world.used - before, world.longest);
    let elected = election(&world)?;
    let case = format!("{n_nodes} nodes, {n_tasks} tasks");
    let rate = n_tasks as f64 / used.as_secs_f64();
    Ok(vec![
        Row::plain(format!("{case}: created, placed and running, a second of the core"), rate, "tasks/s"),
        Row::plain(format!("{case}: the longest pass"), longest.as_secs_f64() * 1e3, "ms"),
        Row::plain(format!("{case}: a new leader, from its start to the first commit"), elected.as_secs_f64() * 1e3, "ms"),
    ])
}

/// A manager that begins with this state, until it has agreed to a change: time in the core.
fn election(world: &World) -> anyhow::Result<Duration> {
    let status = world.manager.status();
    let mut recovered = Recovered::bootstrap(1);
    let metadata = raft::eraftpb::SnapshotMetadata {
        index: status.applied,
        term: status.term,
        conf_state: Some(recovered.membership.clone()).into(),
        ..Default::default()
    };
    recovered.hard_state.term = status.term;
    recovered.hard_state.commit = status.applied;
    recovered.membership_index = status.applied;
    recovered.snapshot = Some((metadata, SnapshotContent { store: world.manager.store().clone() }));
    let begin = Instant::now();
    let manager = Manager::new(config(), 2, recovered, at(world.now));
    let began = begin.elapsed();
    let mut next = World {
        manager,
        now: world.now,
        sessions: BTreeMap::new(),
        waiting: VecDeque::new(),
        n_requests: 1 << 32,
        used: began,
        longest: Duration::ZERO,
        refused: None,
    };
    next.until("an election", |world| world.manager.status().is_ready)?;
    next.create("after", 1)?;
    Ok(next.used)
}

/// What one change costs in a large service, by what it costs in a small one beside it.
fn changes() -> anyhow::Result<Vec<Row>> {
    let mut world = World::new(1_000)?;
    world.create("large", LARGE)?;
    world.create("small", REPLICAS)?;
    world.until("all tasks", |world| world.running("large") == LARGE && world.running("small") == REPLICAS)?;
    world.until("both deployments", |world| world.is_converged("large") && world.is_converged("small"))?;
    let (mut large, mut small) = (Duration::ZERO, Duration::ZERO);
    for number in 0..CHANGES {
        large += world.replace("large", number * 7, LARGE)?;
        small += world.replace("small", number, REPLICAS)?;
    }
    let each = |total: Duration| total.as_secs_f64() * 1e3 / CHANGES as f64;
    Ok(vec![
        Row::plain(format!("one task of {LARGE} ends and is replaced"), each(large), "ms"),
        Row::plain(format!("one task of {REPLICAS} beside it"), each(small), "ms"),
        Row::at_most("the first by the second", each(large) / each(small), "", 1.5),
    ])
}

/// What a replica costs in a rolling update of many, by what it costs in one of few.
fn updates() -> anyhow::Result<Vec<Row>> {
    let mut world = World::new(1_000)?;
    let mut each = Vec::new();
    for (name, replicas) in [("few", REPLICAS), ("many", UPDATED)] {
        world.create(name, replicas)?;
        world.until("all tasks", |world| world.running(name) == replicas && world.is_converged(name))?;
        let before = world.used;
        let mut next = spec(name, replicas);
        next.task_template.force_update = 1;
        world.ask(Mutation::UpdateService { service: name.into(), expect: None, spec: Box::new(next) })?;
        world.until("the update", |world| world.is_converged(name))?;
        each.push((world.used - before).as_secs_f64() * 1e3 / replicas as f64);
    }
    Ok(vec![
        Row::plain(format!("a rolling update of {REPLICAS}, for each replica"), each[0], "ms"),
        Row::plain(format!("a rolling update of {UPDATED}, for each replica"), each[1], "ms"),
        Row::at_most("the second by the first", each[1] / each[0], "", 1.5),
    ])
}

/// Measures one part after the other, and shows each as soon as it is known.
pub fn scale(show: &mut dyn FnMut(Row)) -> anyhow::Result<()> {
    for (n_nodes, n_tasks) in SIZES {
        placement(n_nodes, n_tasks)?.into_iter().for_each(&mut *show);
    }
    updates()?.into_iter().for_each(&mut *show);
    changes()?.into_iter().for_each(&mut *show);
    Ok(())
}
