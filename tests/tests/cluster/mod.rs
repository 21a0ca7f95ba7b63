//! A cluster without a network: the store, the leader and the dispatcher of one
//! manager, and agents that do at once what they are told unless a test says
//! otherwise. Time moves only when it is advanced.
//!
//! Every applied transaction is checked: task states move by the table, desired
//! states only grow, no node is over-reserved, and no slot holds more than it may.

use skep_manager_core::control::{Admitted, admit};
use skep_manager_core::dispatch::Dispatcher;
use skep_manager_core::leader::Leader;
use skep_manager_core::store::{Change, StoredObject};
use skep_manager_core::{Action, Mint, Store, Transaction};
use skep_model::assignment::{AssignmentChange, Assignments, Hello, StatusUpdate};
use skep_model::cluster::{Cluster as ClusterObject, ClusterPlan, ClusterSpec};
use skep_model::endpoint::Publication;
use skep_model::node::{Availability, ManagerStatus, Node, NodeDescription, NodePlan, NodeSpec, NodeStatus, Role, Underlay};
use skep_model::overlay::OverlayChange;
use skep_model::request::{Mutation, Outcome};
use skep_model::resources::Resources;
use skep_model::service::Platform;
use skep_model::task::{ContainerStatus, Task, TaskStatus};
use skep_model::task_state::Owner;
use skep_model::{ClusterId, Meta, NodeId, Refusal, RequestId, Section, SessionId, TaskId, TaskState, Time};
use skep_tests::slots::Slots;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Between two heartbeats of an agent.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// So many rounds without coming to rest are a livelock.
const ROUNDS_MAX: usize = 10_000;

/// What the tasks of a service (or an image) do when they are started or stopped.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Behaviour {
    /// How far a start gets.
    pub start: Start,
    /// Whether a stop takes for ever.
    pub never_stops: bool,
}

/// How far a start gets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Start {
    /// All the way.
    #[default]
    Runs,
    /// It fails with exit code 1.
    Fails,
    /// There is no such image.
    Rejected,
    /// It prepares for ever.
    Hangs,
    /// Its health check never says good.
    Unready,
    /// All the way, and its health check says good at once.
    Healthy,
}

/// An agent: what it was told to have and what it observed.
#[derive(Debug, Default)]
pub struct Agent {
    pub node: Option<NodeId>,
    pub session: Option<SessionId>,
    pub is_up: bool,
    pub description: NodeDescription,
    chain: u64,
    pub tasks: BTreeMap<TaskId, (Arc<Task>, TaskStatus)>,
    pub files: BTreeSet<String>,
    /// Tasks that were told that they may stop.
    pub may_stop: BTreeSet<TaskId>,
    /// It programs its network for ever.
    pub is_slow: bool,
    /// The link up to which it said that its network holds everything.
    programmed: u64,
    /// Every message, in words.
    pub told: Vec<String>,
}

/// The cluster.
pub struct Cluster {
    pub store: Store,
    pub now: Time,
    pub mint: Mint,
    pub leader: Leader,
    pub dispatcher: Dispatcher,
    pub agents: BTreeMap<String, Agent>,
    /// By name of a service or an image.
    pub behaviours: BTreeMap<String, Behaviour>,
    /// What happened to tasks, in words, while it is being traced.
    pub trace: Vec<String>,
    pub is_traced: bool,
    /// What the leader's log has.
    pub warnings: Vec<String>,
    slots: Slots,
    term: u64,
    n_requests: u64,
    start: Time,
}

impl Cluster {
    /// A cluster with no node but its manager, which takes no tasks.
    pub fn new(seed: u64) -> Self {
        let start = Time::from_millis(1_000_000_000);
        let store = Store::default();
        let mut cluster = Self {
            leader: Leader::new(&store, start),
            dispatcher: Dispatcher::new(&store, start, 1),
            store,
            now: start,
            mint: Mint::new(seed),
            agents: BTreeMap::new(),
            behaviours: BTreeMap::new(),
            trace: Vec::new(),
            is_traced: false,
            warnings: Vec::new(),
            slots: Slots::default(),
            term: 1,
            n_requests: 0,
            start,
        };
        let object = ClusterObject {
            id: ClusterId::from_random([1; 16]),
            meta: Meta::default(),
            spec: Section::new(ClusterSpec::default()),
            plan: Section::new(ClusterPlan { root_ca: "root".into(), format: 1, ..ClusterPlan::default() }),
        };
        let id = NodeId::from_random([1; 16]);
        let manager = ManagerStatus { raft_id: 1, address: "10.0.0.1:2377".into(), format_max: 1, unreachable: false };
        let node = Node {
            id,
            meta: Meta::default(),
            spec: Section::new(NodeSpec {
                desired_role: Role::Manager,
                availability: Availability::Drain,
                ..NodeSpec::default()
            }),
            description: Section::new(NodeDescription { hostname: "m1".into(), ..NodeDescription::default() }),
            status: Section::new(NodeStatus::default()),
            plan: Section::new(NodePlan { role: Role::Manager, manager: Some(manager), ..NodePlan::default() }),
        };
        cluster.request(Mutation::Bootstrap { cluster: Box::new(object), node: Box::new(node) }).expect("a cluster begins");
        let description = cluster.store.node(id).expect("the manager is there").description.value.clone();
        cluster.agents.insert("m1".into(), Agent { node: Some(id), is_up: true, description, ..Agent::default() });
        cluster.open("m1");
        cluster.settle();
        cluster
    }

    /// Seconds since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.now.since(self.start)
    }

    /// Adds a node and opens its session.
    pub fn add_node(&mut self, name: &str, resources: Resources, platform: Platform) {
        let id = NodeId::from_random(self.mint.id());
        let mutation = Mutation::RegisterNode {
            node: id,
            role: Role::Worker,
            availability: Availability::Active,
            hostname: name.into(),
            certificate_expires: self.now + Duration::from_secs(90 * 24 * 3600),
            addresses: Default::default(),
        };
        self.request(mutation).expect("a node may join");
        let address = [192, 0, 2, self.agents.len() as u8].into();
        let description = NodeDescription {
            underlay: Some(Underlay { address, occupied: Vec::new(), lacks_ipv6: String::new() }),
            hostname: name.into(),
            platform,
            resources,
            engine_version: "0.1.0".into(),
            ..NodeDescription::default()
        };
        self.agents.insert(name.into(), Agent { node: Some(id), is_up: true, description, ..Agent::default() });
        self.open(name);
        self.settle();
    }

    /// Opens a session for an agent.
    pub fn open(&mut self, name: &str) {
        let session = SessionId::from_random(self.mint.id());
        let Some(agent) = self.agents.get_mut(name) else { panic!("there is no agent {name}") };
        agent.is_up = true;
        agent.session = Some(session);
        (agent.chain, agent.programmed) = (0, 0);
        let statuses = agent.tasks.iter().map(|(id, (_, status))| StatusUpdate { task: *id, status: status.clone() }).collect();
        let hello = Hello {
            node: agent.node.expect("an agent has a node"),
            description: agent.description.clone(),
            statuses,
            address: "10.0.0.9".into(),
            certificate_expires: self.now + Duration::from_secs(90 * 24 * 3600),
            not_ready: String::new(),
        };
        self.dispatcher.opened(self.now, &self.store, session, hello);
    }

    /// The agent falls silent.
    pub fn silence(&mut self, name: &str) {
        let agent = self.agents.get_mut(name).expect("an agent of that name");
        agent.is_up = false;
        if let Some(session) = agent.session.take() {
            self.dispatcher.closed(self.now, session, false);
        }
    }

    /// The agent stops its tasks and says goodbye.
    pub fn goodbye(&mut self, name: &str) {
        let agent = self.agents.get_mut(name).expect("an agent of that name");
        agent.is_up = false;
        agent.tasks.clear();
        if let Some(session) = agent.session.take() {
            self.dispatcher.closed(self.now, session, true);
        }
    }

    /// Another manager becomes the leader.
    pub fn change_leader(&mut self) {
        self.term += 1;
        self.leader = Leader::new(&self.store, self.now);
        self.dispatcher = Dispatcher::new(&self.store, self.now, self.term);
        let names: Vec<String> = self.agents.iter().filter(|(_, agent)| agent.is_up).map(|(name, _)| name.clone()).collect();
        self.settle();
        for name in names {
            self.open(&name);
        }
        self.settle();
    }

    /// Asks for a change and waits until everything has come to rest.
    pub fn request(&mut self, mutation: Mutation) -> Result<Outcome, Refusal> {
        self.n_requests += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.n_requests.to_be_bytes());
        let outcome = match admit(&self.store, self.now, &mut self.mint, RequestId(id), mutation)? {
            Admitted::Propose(transaction) => {
                let outcome = transaction.outcome.expect("a request has an outcome");
                self.apply(&transaction, None).map_err(|refused| refused.into_result().expect_err("no request is repeated"))?;
                outcome
            }
            Admitted::Done(outcome) => outcome,
            Admitted::Join(_) | Admitted::Leave { .. } => panic!("membership is not tested here"),
        };
        self.settle();
        Ok(outcome)
    }

    /// Lets time pass, with everything happening when it is due.
    pub fn advance(&mut self, duration: Duration) {
        let until = self.now + duration;
        while self.now < until {
            let next_beat = self.now + HEARTBEAT;
            let due = [self.leader.next_wakeup(), self.dispatcher.next_gate(), self.dispatcher.next_deadline()]
                .into_iter()
                .flatten()
                .min();
            // Something due in the past has been handled by now.
            let next = due.filter(|at| *at > self.now).map_or(next_beat, |at| at.min(next_beat));
            self.now = next.min(until);
            for agent in self.agents.values().filter(|agent| agent.is_up) {
                if let Some(session) = agent.session {
                    self.dispatcher.heartbeat(self.now, session);
                }
            }
            self.settle();
        }
    }

    /// Goes on until nobody has anything more to do.
    pub fn settle(&mut self) {
        let mut refused = None;
        for _ in 0..ROUNDS_MAX {
            let mut is_at_rest = true;
            for transaction in self.dispatcher.transactions(&self.store, self.now) {
                is_at_rest = false;
                let result = self.apply(&transaction, Some(Owner::Agent));
                self.dispatcher.settled(&transaction, result.is_ok());
                refused = result.err().or(refused);
            }
            if self.dispatcher.take_question() {
                // The other managers, which are not in this picture, agree at once.
                self.dispatcher.confirmed();
            }
            let passed = self.dispatcher.pass(&self.store, self.now);
            is_at_rest &= passed.is_empty();
            self.leader.look_at(passed);
            for transaction in self.leader.turn(&self.store, self.now, &mut self.mint, self.dispatcher.barrier()) {
                is_at_rest = false;
                if let Err(conflict) = self.apply(&transaction, Some(Owner::Leader)) {
                    self.leader.refused(&transaction);
                    refused = Some(conflict);
                }
            }
            is_at_rest &= !self.dispatcher.exclude(&self.store, self.leader.excluded());
            for action in self.dispatcher.actions(&self.store, self.now) {
                is_at_rest = false;
                self.carry_out(action);
            }
            is_at_rest &= !self.step_agents();
            if is_at_rest {
                return self.slots.at_rest(&self.store, self.dispatcher.barrier()).expect("slots hold what they need");
            }
        }
        panic!("the cluster does not come to rest; refused last: {refused:?}");
    }

    /// From now on drafting a service of this name panics, or none does.
    pub fn plant_panic(&mut self, name: Option<&str>) {
        self.leader = Leader::new(&self.store, self.now).with_planted_panic(name.map(str::to_owned));
    }

    /// An agent says what became of a task.
    pub fn report(&mut self, task: TaskId, change: impl Fn(&mut TaskStatus)) {
        let now = self.now;
        for agent in self.agents.values_mut() {
            if let (Some((_, status)), Some(session)) = (agent.tasks.get_mut(&task), agent.session) {
                change(status);
                status.timestamp = now;
                let update = StatusUpdate { task, status: status.clone() };
                self.dispatcher.status(now, &self.store, session, vec![update]);
            }
        }
        self.settle();
    }

    /// The active task of a slot (or node), named `web.1` or `web.n1`.
    pub fn task(&self, name: &str) -> Option<Arc<Task>> {
        let (service, place) = name.rsplit_once('.')?;
        let mut tasks: Vec<&Arc<Task>> = self
            .store
            .tasks()
            .filter(|task| task.service_name == service && self.place(task) == place && !task.status.state.is_final())
            .collect();
        tasks.sort_by_key(|task| (task.meta.made(), task.meta.version));
        tasks.last().map(|task| Arc::clone(task))
    }

    /// A task's slot, or its node's name if the service is global.
    pub fn place(&self, task: &Task) -> String {
        match (task.slot, task.plan.node) {
            (0, Some(node)) => self.node_name(node),
            (slot, _) => slot.to_string(),
        }
    }

    /// A node's name, also of one that was removed.
    pub fn node_name(&self, node: NodeId) -> String {
        let named = self.agents.iter().find(|(_, agent)| agent.node == Some(node));
        named.map_or_else(|| node.to_string(), |(name, _)| name.clone())
    }

    /// Applies one transaction and checks what it did. `owner` is whose task
    /// states it may move; `None` for a request.
    fn apply(&mut self, transaction: &Transaction, owner: Option<Owner>) -> Result<(), skep_manager_core::store::Conflict> {
        let index = self.store.version + 1;
        let mut transaction = transaction.clone();
        transaction.stamp(self.now);
        let changes = self.store.apply(index, &transaction)?;
        for change in &changes {
            self.check(change, owner);
            self.note(change);
        }
        self.slots.changed(&self.store, &changes).expect("slots hold what they may");
        self.leader.changed(&changes);
        self.dispatcher.changed(&self.store, &changes);
        Ok(())
    }

    fn check(&self, change: &Change, owner: Option<Owner>) {
        let (Some(StoredObject::Task(new)), old) = (&change.new, &change.old) else { return };
        if let Some(StoredObject::Task(old)) = old {
            assert!(old.plan.desired <= new.plan.desired, "desired went back: {old:?} to {new:?}");
            let (from, to) = (old.status.state, new.status.state);
            assert!(
                from == to || owner.is_some_and(|owner| from.may_become(to, owner)),
                "{owner:?} moved {} from {from} to {to}",
                new.name()
            );
        }
        if let Some(node) = new.plan.node.and_then(|node| self.store.node(node)) {
            let holds = |task: &&Arc<Task>| (TaskState::Assigned..=TaskState::Running).contains(&task.status.state);
            let used: u64 =
                self.store.tasks_of_node(node.id).filter(holds).map(|task| task.spec.resources.reservations.nano_cpus).sum();
            let offered = node.description.resources.nano_cpus;
            assert!(used == 0 || used <= offered, "node {} is over-reserved: {used} of {offered}", node.description.hostname);
        }
    }

    fn note(&mut self, change: &Change) {
        let (Some(StoredObject::Task(new)), true) = (&change.new, self.is_traced) else { return };
        let at = format!("{:>6.1}s", self.elapsed().as_secs_f64());
        let name = format!("{}.{}", new.service_name, self.place(new));
        let node = new.plan.node.map(|node| format!(" on {}", self.node_name(node))).unwrap_or_default();
        let old = change.old.as_ref().and_then(|old| if let StoredObject::Task(old) = old { Some(old) } else { None });
        let state = new.status.state;
        let is_new_state = old.is_none_or(|old| old.status.state != state);
        if is_new_state && (state == TaskState::Running || state.is_final()) {
            self.trace.push(format!("{at} {name} v{} {state}{node}", new.spec_version));
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::SendAssignments { session, assignments, .. } => {
                let agent = self.agents.values_mut().find(|agent| agent.session == Some(session));
                if let Some(agent) = agent {
                    agent.take(&assignments);
                }
            }
            Action::SendInfo { session, info } => {
                if let Some(agent) = self.agents.values_mut().find(|agent| agent.session == Some(session)) {
                    agent.told.push(format!("info: term {}, {} managers", info.term, info.managers.len()));
                }
            }
            Action::CloseSession { session, reason } => {
                if let Some(agent) = self.agents.values_mut().find(|agent| agent.session == Some(session)) {
                    agent.session = None;
                    agent.told.push(format!("closed: {reason}"));
                }
            }
            Action::Warn { sentence } => self.warnings.push(sentence),
            other => panic!("the dispatcher wants {other:?}"),
        }
    }

    /// Every agent takes its tasks as far as they go; whether any moved.
    fn step_agents(&mut self) -> bool {
        let mut has_moved = false;
        for agent in self.agents.values_mut() {
            let Some(session) = agent.session else { continue };
            if !agent.is_slow && agent.programmed < agent.chain {
                has_moved = true;
                agent.programmed = agent.chain;
                self.dispatcher.programmed(&self.store, session, agent.chain);
            }
            let mut updates = Vec::new();
            for (task, status) in agent.tasks.values_mut() {
                let is_to_be_found = !task.networks.is_empty() && task.plan.endpoint.publication != Publication::Unpublished;
                if !task.is_wanted() && is_to_be_found && !agent.may_stop.contains(&task.id) {
                    continue;
                }
                let image = &task.spec.container_spec.image;
                let behaviour = self.behaviours.get(&task.service_name).or_else(|| self.behaviours.get(image));
                let behaviour = behaviour.cloned().unwrap_or_default();
                if step(task, status, &behaviour, self.now) {
                    updates.push(StatusUpdate { task: task.id, status: status.clone() });
                }
            }
            if !updates.is_empty() {
                has_moved = true;
                self.dispatcher.status(self.now, &self.store, session, updates);
            }
        }
        has_moved
    }
}

impl Agent {
    fn take(&mut self, assignments: &Assignments) {
        assert_eq!(assignments.is_complete, self.chain == 0, "the first message of a session is complete, no other");
        assert_eq!(assignments.applies_to, self.chain, "assignments are a chain");
        self.chain = assignments.results_in;
        let mut words = Vec::new();
        if assignments.is_complete {
            self.files.clear();
            self.may_stop.clear();
            let kept: BTreeSet<TaskId> = assignments
                .changes
                .iter()
                .filter_map(|change| if let AssignmentChange::PutTask(task) = change { Some(task.id) } else { None })
                .collect();
            self.tasks.retain(|id, _| kept.contains(id));
        }
        for change in &assignments.changes {
            match change {
                AssignmentChange::PutSecret(id, n) => drop(self.files.insert(format!("{id}@{n}"))),
                AssignmentChange::PutConfig(id, n) => drop(self.files.insert(format!("{id}@{n}"))),
                AssignmentChange::RemoveSecret(id, n) => drop(self.files.remove(&format!("{id}@{n}"))),
                AssignmentChange::RemoveConfig(id, n) => drop(self.files.remove(&format!("{id}@{n}"))),
                AssignmentChange::PutTask(task) => {
                    for secret in &task.spec.container_spec.secrets {
                        let file = format!("{}@{}", secret.id, secret.version.expect("a task pins versions"));
                        let is_needed = task.status.state <= TaskState::Running;
                        assert!(!is_needed || self.files.contains(&file), "a secret comes before its task");
                    }
                    let status = self.tasks.get(&task.id).map_or(task.status.value.clone(), |(_, status)| status.clone());
                    self.tasks.insert(task.id, (task.clone(), status));
                }
                AssignmentChange::RemoveTask(id) => drop(self.tasks.remove(id)),
                AssignmentChange::MayStop(id) => drop(self.may_stop.insert(*id)),
                AssignmentChange::Overlay(_) => {}
            }
            words.push(match change {
                AssignmentChange::PutSecret(_, n) => format!("+secret@{n}"),
                AssignmentChange::PutConfig(_, n) => format!("+config@{n}"),
                AssignmentChange::RemoveSecret(_, n) => format!("-secret@{n}"),
                AssignmentChange::RemoveConfig(_, n) => format!("-config@{n}"),
                AssignmentChange::PutTask(task) => format!("{}.{} {}", task.service_name, task.slot, task.plan.desired),
                AssignmentChange::RemoveTask(_) => "-task".into(),
                AssignmentChange::MayStop(id) => format!("{} may stop", self.word(*id)),
                AssignmentChange::Overlay(change) => self.overlay_word(change),
            });
        }
        let kind = if assignments.is_complete { "complete" } else { "incremental" };
        self.told.push(format!("{kind} {}: {}", assignments.results_in, words.join(", ")));
    }

    /// A task by service and slot: ids are as random as the seed.
    fn word(&self, task: TaskId) -> String {
        self.tasks.get(&task).map_or("a task".into(), |(task, _)| format!("{}.{}", task.service_name, task.slot))
    }

    fn overlay_word(&self, change: &OverlayChange) -> String {
        match change {
            OverlayChange::PutPeer(peer) => format!("+peer {}", peer.address),
            OverlayChange::PutNetwork(network) => format!("+network {}", network.name),
            OverlayChange::PutService(service) => format!("+service {}", service.name),
            OverlayChange::PutEndpoint(endpoint) => {
                let name: Vec<&str> = endpoint.names[0].split('.').take(2).collect();
                format!("+endpoint {} {}", name.join("."), if endpoint.is_published { "published" } else { "hidden" })
            }
            OverlayChange::RemoveEndpoint(_) => "-endpoint".into(),
            OverlayChange::RemoveService(_) => "-service".into(),
            OverlayChange::RemoveNetwork(_) => "-network".into(),
            OverlayChange::RemovePeer(_) => "-peer".into(),
        }
    }
}

/// What an agent does with a task: one call takes it as far as it goes.
fn step(task: &Task, status: &mut TaskStatus, behaviour: &Behaviour, now: Time) -> bool {
    use TaskState::*;
    if status.state.is_final() {
        return false;
    }
    let desired = task.plan.desired;
    let next = if desired > Running {
        match (status.state, behaviour.never_stops) {
            (Running, true) => return false,
            _ => Shutdown,
        }
    } else {
        match (status.state, behaviour.start) {
            (state, Start::Hangs) if state >= Preparing => return false,
            (Assigned, _) => Accepted,
            (Accepted, _) => Preparing,
            (Preparing, Start::Rejected) => Rejected,
            (Preparing, _) => Ready,
            (Ready, _) if desired < Running => return false,
            (Ready, _) => Starting,
            (Starting, Start::Unready) => return false,
            (Starting, Start::Fails) => Failed,
            (Starting, _) => Running,
            _ => return false,
        }
    };
    status.state = next;
    status.timestamp = now;
    status.message = next.to_string();
    match next {
        Rejected => status.error = "No such image: ".to_string() + &task.spec.container_spec.image,
        Failed => status.error = "task: non-zero exit (1)".into(),
        Running => {
            status.is_healthy = behaviour.start == Start::Healthy;
            status.container = Some(ContainerStatus { container_id: task.id.to_string(), pid: 1, exit_code: 0 });
        }
        _ => {}
    }
    true
}
