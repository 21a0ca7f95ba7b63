//! What one turn may rely on. What turns lead to is the scenarios' business.

use super::*;
use crate::store::Conflict;
use crate::transaction::Write;
use skep_model::cluster::{Cluster, ClusterPlan, ClusterSpec};
use skep_model::node::{Node, NodeDescription, NodePlan, NodeSpec, NodeState, NodeStatus};
use skep_model::resources::Resources;
use skep_model::service::{Annotations, Service, ServiceMode, ServicePlan, ServiceRecord, ServiceSpec, TaskSpec, UpdateConfig};
use skep_model::task::TaskStatus;
use skep_model::{ClusterId, Meta, Object, Section, TaskState};
use std::sync::Arc;
use std::time::Duration;

const START: Time = Time::from_millis(1_000_000);

/// A leader with a node of one core, and the store that it leads.
struct Led {
    store: Store,
    leader: Leader,
    mint: Mint,
    barrier: Barrier,
    now: Time,
}

fn node_id() -> NodeId {
    NodeId::from_random([1; 16])
}

fn service_id(n: u8) -> ServiceId {
    ServiceId::from_random([n; 16])
}

fn node_spec(label: &str) -> NodeSpec {
    NodeSpec { labels: BTreeMap::from([("is".into(), label.into())]), ..NodeSpec::default() }
}

impl Led {
    fn new() -> Self {
        let cluster = Cluster {
            id: ClusterId::from_random([9; 16]),
            meta: Meta::default(),
            spec: Section::new(ClusterSpec::default()),
            plan: Section::new(ClusterPlan::default()),
        };
        let resources = Resources { nano_cpus: 1_000_000_000, memory_bytes: 1 << 30 };
        let node = Node {
            id: node_id(),
            meta: Meta::default(),
            spec: Section::new(node_spec("old")),
            description: Section::new(NodeDescription { hostname: "n1".into(), resources, ..NodeDescription::default() }),
            status: Section::new(NodeStatus { state: NodeState::Ready, ..NodeStatus::default() }),
            plan: Section::new(NodePlan::default()),
        };
        let mut led = Self {
            leader: Leader::new(&Store::default(), START),
            store: Store::default(),
            mint: Mint::new(1),
            barrier: Barrier::default(),
            now: START,
        };
        led.write(vec![Write::Create(Object::Cluster(Box::new(cluster))), Write::Create(Object::Node(Box::new(node)))]);
        led
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<(), Conflict> {
        let changes = self.store.apply(self.store.version + 1, transaction)?;
        self.leader.changed(&changes);
        Ok(())
    }

    /// Somebody else writes.
    fn write(&mut self, writes: Vec<Write>) {
        self.apply(&Transaction { writes, ..Transaction::new(self.now) }).expect("nothing refuses it");
    }

    fn turn(&mut self) -> Vec<Transaction> {
        self.leader.turn(&self.store, self.now, &mut self.mint, &self.barrier)
    }

    /// Carries turns out until there is nothing more to do.
    fn settle(&mut self) {
        for _ in 0..20 {
            let transactions = self.turn();
            if transactions.is_empty() {
                return;
            }
            transactions.iter().for_each(|transaction| self.apply(transaction).expect("nobody else writes"));
        }
        panic!("the leader does not come to rest");
    }

    /// A service of one task that takes the whole node.
    fn add_service(&mut self, n: u8, constraint: Option<&str>) {
        let mut template = TaskSpec::default();
        template.container_spec.image = "app:1".into();
        template.resources.reservations.nano_cpus = 1_000_000_000;
        template.restart_policy.delay = Duration::ZERO;
        template.placement.constraints = constraint.iter().map(|&text| text.to_owned()).collect();
        let spec = ServiceSpec {
            annotations: Annotations { name: format!("web{n}"), labels: BTreeMap::new() },
            task_template: template,
            mode: ServiceMode::Replicated { replicas: 1 },
            update_config: UpdateConfig::default(),
            rollback_config: UpdateConfig::default(),
            endpoint_spec: Default::default(),
            deadline: None,
        };
        let service = Service {
            id: service_id(n),
            meta: Meta::default(),
            spec: Section::new(ServiceRecord { spec, previous: None, spec_version: 1 }),
            plan: Section::new(ServicePlan { deployment: None, removed_at: None, endpoint: Default::default() }),
        };
        self.write(vec![Write::Create(Object::Service(Box::new(service)))]);
    }

    fn tasks(&self, service: u8) -> Vec<Arc<Task>> {
        self.store.tasks_of_service(service_id(service)).cloned().collect()
    }

    fn task(&self, service: u8) -> Arc<Task> {
        let active: Vec<_> = self.tasks(service).into_iter().filter(|task| task.is_active()).collect();
        assert_eq!(active.len(), 1, "active tasks of web{service}: {active:?}");
        active[0].clone()
    }

    /// A node says what became of a task.
    fn report(&mut self, task: &Task, state: TaskState) {
        let status = TaskStatus { state, applied_at: self.now, ..task.status.value.clone() };
        self.write(vec![Write::TaskStatus(task.id, status)]);
    }

    fn reserved(&self) -> u64 {
        let holding = self.store.tasks_of_node(node_id()).filter(|task| holds_reservation(task));
        holding.map(|task| task.spec.resources.reservations.nano_cpus).sum()
    }
}

/// A node full of one service, and another that waits for it; then the node is no
/// longer one for the first.
fn full_node_that_changes() -> Led {
    let mut led = Led::new();
    led.add_service(1, Some("node.labels.is == old"));
    led.settle();
    led.add_service(2, None);
    led.settle();
    assert_eq!(led.task(1).status.state, TaskState::Assigned);
    assert_eq!(led.task(2).status.state, TaskState::Pending);
    led.write(vec![Write::NodeSpec(node_id(), node_spec("new"))]);
    led
}

#[test]
fn what_one_draft_frees_is_no_room_for_another_of_the_turn() {
    let mut led = full_node_that_changes();
    let transactions = led.turn();
    // The first service's draft is refused: its task got further meanwhile.
    led.report(&led.task(1), TaskState::Accepted);
    let n_refused = transactions.iter().filter(|transaction| led.apply(transaction).is_err()).count();
    assert_eq!(n_refused, 1, "{transactions:?}");
    assert_eq!(led.reserved(), 1_000_000_000, "of one core");
    assert_eq!(led.task(2).status.state, TaskState::Pending);
}

#[test]
fn what_a_draft_freed_is_room_once_it_has_committed() {
    let mut led = full_node_that_changes();
    led.settle();
    assert_eq!((led.task(1).status.state, led.task(2).status.state), (TaskState::Pending, TaskState::Assigned));
    assert_eq!(led.task(2).plan.node, Some(node_id()));
}

#[test]
fn a_replacement_is_the_newest_task_though_the_clock_went_back() {
    let mut led = Led::new();
    led.add_service(1, None);
    led.settle();
    let first = led.task(1);
    led.report(&first, TaskState::Accepted);
    // Another manager leads; its clock is behind.
    led.now = START - Duration::from_secs(60);
    led.leader = Leader::new(&led.store, led.now);
    for n_replaced in 1..5 {
        let task = led.task(1);
        led.report(&task, TaskState::Failed);
        led.settle();
        assert_eq!(led.tasks(1).len(), n_replaced + 1, "one replacement for each task that failed");
        assert!(led.task(1).meta.made() > task.meta.made());
    }
}

/// A draft that is too large for one transaction is split, and any part may be
/// refused: what is counted as a failure and what is retired for it go together.
#[test]
fn a_failure_is_counted_in_the_transaction_that_retires_the_task() {
    const N: u64 = 600;
    let mut led = Led::new();
    led.add_service(1, None);
    let mut record = led.store.service(service_id(1)).expect("the service").spec.value.clone();
    record.spec.mode = ServiceMode::Replicated { replicas: N };
    record.spec.task_template.resources.reservations.nano_cpus = 0;
    // Replacements of all would be 6 MB.
    record.spec.task_template.container_spec.env = vec![format!("BLOB={}", "x".repeat(8_000))];
    record.spec.update_config.failure_action = skep_model::service::FailureAction::Continue;
    led.write(vec![Write::ServiceSpec(service_id(1), Box::new(record))]);
    led.settle();
    led.tasks(1).iter().for_each(|task| led.report(task, TaskState::Failed));
    let mut n_turns = 0;
    loop {
        let transactions = led.turn();
        if transactions.is_empty() {
            break;
        }
        n_turns += 1;
        let before = n_counted(&led.store);
        for transaction in &transactions {
            let is_retired = |write: &Write| matches!(write, Write::TaskPlan(_, plan) if plan.desired == TaskState::Shutdown);
            let n_retired = transaction.writes.iter().filter(|write| is_retired(write)).count() as u64;
            let counted = transaction.writes.iter().find_map(|write| match write {
                Write::ServicePlan(_, plan) => plan.deployment.as_ref().map(|deployment| deployment.failures),
                _ => None,
            });
            assert_eq!(counted.unwrap_or(before) - before, n_retired, "of {} writes", transaction.writes.len());
        }
        // Any of them may be refused: here all but the last are.
        let (last, refused) = transactions.split_last().expect("there is one");
        refused.iter().for_each(|transaction| led.leader.refused(transaction));
        led.apply(last).expect("nobody else writes");
    }
    assert!(n_turns > 2, "it was no large draft");
    assert_eq!(n_counted(&led.store), N);
}

fn n_counted(store: &Store) -> u64 {
    let service = store.service(service_id(1)).expect("the service");
    service.plan.deployment.as_ref().map_or(0, |deployment| deployment.failures)
}
