//! Sessions, deadlines and reports, without a leader.

use super::nodes::REGISTRATIONS_MAX;
use super::*;
use skep_model::TaskId;
use skep_model::assignment::AssignmentChange;
use skep_model::assignment::Assignments;
use skep_model::cluster::{Cluster, ClusterPlan, ClusterSpec};
use skep_model::container::{FileTarget, SecretReference};
use skep_model::endpoint::{PublishMode, PublishedPort, Transport};
use skep_model::node::{NodeDescription, NodePlan, NodeSpec, NodeState, NodeStatus, Underlay};
use skep_model::sealed::Sealed;
use skep_model::secret::{Secret, SecretSpec, SecretVersion};
use skep_model::service::{Annotations, TaskSpec};
use skep_model::task::{Task, TaskPlan, TaskStatus};
use skep_model::{ClusterId, Meta, Object, SecretId, Section, ServiceId, TaskState};
use std::time::Duration;

pub(super) const START: Time = Time::from_millis(1_000_000);

pub(super) fn node_id(n: u8) -> NodeId {
    NodeId::from_random([n; 16])
}

pub(super) fn session_id(n: u8) -> SessionId {
    SessionId::from_random([n; 16])
}

pub(super) fn task_id(n: u8) -> TaskId {
    TaskId::from_random([n; 16])
}

/// A store with a cluster and two nodes.
pub(super) fn store() -> Store {
    let cluster = Cluster {
        id: ClusterId::from_random([9; 16]),
        meta: Meta::default(),
        spec: Section::new(ClusterSpec::default()),
        plan: Section::new(ClusterPlan::default()),
    };
    let mut transaction = Transaction::new(START);
    transaction.writes.push(Write::Create(Object::Cluster(Box::new(cluster))));
    transaction.writes.extend([1, 2].map(|n| Write::Create(Object::Node(Box::new(node(n))))));
    let mut store = Store::default();
    store.apply(1, &transaction).expect("an empty store takes it");
    store
}

fn node(n: u8) -> Node {
    Node {
        id: node_id(n),
        meta: Meta::default(),
        spec: Section::new(NodeSpec::default()),
        description: Section::new(NodeDescription { hostname: format!("n{n}"), ..NodeDescription::default() }),
        status: Section::new(NodeStatus::default()),
        plan: Section::new(NodePlan::default()),
    }
}

pub(super) fn task(n: u8, node: u8) -> Task {
    Task {
        id: task_id(n),
        meta: Meta::default(),
        service_id: ServiceId::from_random([1; 16]),
        service_name: "web".into(),
        service_labels: Default::default(),
        slot: u64::from(n),
        spec: Arc::new(TaskSpec::default()),
        spec_version: 1,
        networks: Vec::new(),
        ports: Vec::new(),
        plan: Section::new(TaskPlan { node: Some(node_id(node)), ..TaskPlan::new(TaskState::Running, START) }),
        status: Section::new(status(TaskState::Assigned)),
    }
}

pub(super) fn status(state: TaskState) -> TaskStatus {
    TaskStatus::new(state, START)
}

pub(super) fn update(n: u8, state: TaskState) -> StatusUpdate {
    StatusUpdate { task: task_id(n), status: status(state) }
}

pub(super) fn hello(n: u8, statuses: Vec<StatusUpdate>) -> Hello {
    let description = NodeDescription { hostname: format!("n{n}"), ..NodeDescription::default() };
    let (address, not_ready) = ("10.0.0.1".into(), String::new());
    Hello { node: node_id(n), description, statuses, address, certificate_expires: START, not_ready }
}

/// Applies one transaction and tells the dispatcher.
pub(super) fn apply(store: &mut Store, dispatcher: &mut Dispatcher, transaction: &Transaction) {
    let changes = store.apply(store.version + 1, transaction).expect("nothing else writes");
    dispatcher.changed(store, &changes);
}

/// Writes everything that the dispatcher wants written.
pub(super) fn write(store: &mut Store, dispatcher: &mut Dispatcher, now: Time) -> usize {
    let transactions = dispatcher.transactions(store, now);
    for transaction in &transactions {
        apply(store, dispatcher, transaction);
        dispatcher.settled(transaction, true);
    }
    transactions.len()
}

/// The same, where most nodes are silent: a majority of the managers says that this is
/// still the leader, and a heartbeat's period passes. When that is over.
fn write_for_sure(store: &mut Store, dispatcher: &mut Dispatcher, now: Time) -> Time {
    write(store, dispatcher, now);
    assert!(dispatcher.take_question(), "most nodes are silent");
    dispatcher.confirmed();
    let later = now + crate::timing::SESSION_HEARTBEAT;
    write(store, dispatcher, later);
    later
}

pub(super) fn add(store: &mut Store, dispatcher: &mut Dispatcher, task: Task) {
    let mut transaction = Transaction::new(START);
    transaction.writes.push(Write::Create(Object::Task(Box::new(task))));
    apply(store, dispatcher, &transaction);
}

fn state_of(store: &Store, n: u8) -> TaskState {
    store.task(task_id(n)).expect("the task").status.state
}

#[test]
fn reports_count_only_from_the_tasks_own_node_and_only_forwards() {
    let mut store = store();
    let mut dispatcher = Dispatcher::new(&store, START, 1);
    dispatcher.opened(START, &store, session_id(1), hello(1, vec![]));
    dispatcher.opened(START, &store, session_id(2), hello(2, vec![]));
    add(&mut store, &mut dispatcher, task(1, 1));
    write(&mut store, &mut dispatcher, START);

    dispatcher.status(START, &store, session_id(2), vec![update(1, TaskState::Running)]);
    assert_eq!(write(&mut store, &mut dispatcher, START), 0, "another node's report is ignored");
    dispatcher.status(START, &store, session_id(9), vec![update(1, TaskState::Running)]);
    assert_eq!(write(&mut store, &mut dispatcher, START), 0, "so is one without a session");
    dispatcher.status(START, &store, session_id(1), vec![update(1, TaskState::Orphaned)]);
    assert_eq!(write(&mut store, &mut dispatcher, START), 0, "an agent orphans nothing");
    let steps = vec![update(1, TaskState::Accepted), update(1, TaskState::Running), update(1, TaskState::Preparing)];
    dispatcher.status(START, &store, session_id(1), steps);
    assert_eq!(write(&mut store, &mut dispatcher, START), 1, "what waits is merged");
    assert_eq!(state_of(&store, 1), TaskState::Running);
    assert_eq!(store.task(task_id(1)).expect("the task").status.running_since, Some(START));
    dispatcher.status(START, &store, session_id(1), vec![update(1, TaskState::Starting), update(1, TaskState::Running)]);
    assert_eq!(write(&mut store, &mut dispatcher, START), 0, "what is known is not written again");
}

#[test]
fn a_node_says_which_ports_it_chose_and_of_no_others() {
    let port = |target_port, published_port, publish_mode| PublishedPort {
        transport: Transport::Tcp,
        target_port,
        published_port,
        publish_mode,
    };
    use PublishMode::{Host, Ingress};
    let mut store = store();
    let mut dispatcher = Dispatcher::new(&store, START, 1);
    dispatcher.opened(START, &store, session_id(1), hello(1, vec![]));
    let mut asked = task(1, 1);
    asked.ports = vec![port(80, 0, Host), port(81, 8081, Host), port(82, 8082, Ingress)];
    add(&mut store, &mut dispatcher, asked);
    let good = [port(80, 32768, Host), port(81, 8081, Host)];
    let mut report = update(1, TaskState::Running);
    report.status.ports = [&good[..], &[port(81, 9, Host), port(82, 8082, Ingress), port(9, 9, Host)]].concat();
    dispatcher.status(START, &store, session_id(1), vec![report]);
    write(&mut store, &mut dispatcher, START);
    assert_eq!(store.task(task_id(1)).expect("the task").status.ports, good);
    // What does not name them takes nothing back.
    dispatcher.status(START, &store, session_id(1), vec![update(1, TaskState::Complete)]);
    write(&mut store, &mut dispatcher, START);
    assert_eq!(
        (state_of(&store, 1), &store.task(task_id(1)).expect("the task").status.ports[..]),
        (TaskState::Complete, &good[..])
    );
}

#[test]
fn one_batch_is_under_way_and_a_refused_one_is_looked_at_again() {
    let mut store = store();
    let mut dispatcher = Dispatcher::new(&store, START, 1);
    dispatcher.opened(START, &store, session_id(1), hello(1, vec![]));
    add(&mut store, &mut dispatcher, task(1, 1));
    write(&mut store, &mut dispatcher, START);
    dispatcher.status(START, &store, session_id(1), vec![update(1, TaskState::Accepted)]);
    let batch = dispatcher.transactions(&store, START);
    assert_eq!(batch.len(), 1);
    dispatcher.status(START, &store, session_id(1), vec![update(1, TaskState::Running)]);
    assert!(dispatcher.transactions(&store, START).is_empty(), "the first is under way");
    dispatcher.settled(&batch[0], false);
    assert_eq!(write(&mut store, &mut dispatcher, START), 1);
    assert_eq!(state_of(&store, 1), TaskState::Running, "the newer report replaced the refused one");
}

#[test]
fn a_restart_in_place_is_proved_anew() {
    let mut store = store();
    let mut dispatcher = Dispatcher::new(&store, START, 1);
    dispatcher.opened(START, &store, session_id(1), hello(1, vec![]));
    add(&mut store, &mut dispatcher, task(1, 1));
    dispatcher.status(START, &store, session_id(1), vec![update(1, TaskState::Running)]);
    write(&mut store, &mut dispatcher, START);
    let later = START + Duration::from_secs(1);
    let mut again = update(1, TaskState::Running);
    again.status.attempt = 2;
    dispatcher.opened(later, &store, session_id(2), hello(1, vec![again]));
    write(&mut store, &mut dispatcher, later);
    let status = &store.task(task_id(1)).expect("the task").status;
    assert_eq!((status.attempt, status.running_since), (2, Some(later)));
}

#[test]
fn silence_makes_a_node_down_and_a_session_ready() {
    let mut store = store();
    let mut dispatcher = Dispatcher::new(&store, START, 1);
    let state = |store: &Store| store.node(node_id(1)).expect("the node").status.state;
    dispatcher.opened(START, &store, session_id(1), hello(1, vec![]));
    write(&mut store, &mut dispatcher, START);
    assert_eq!(state(&store), NodeState::Ready);
    let mut now = START + Duration::from_millis(2900);
    dispatcher.heartbeat(now, session_id(1));
    now = now + Duration::from_millis(2900);
    write(&mut store, &mut dispatcher, now);
    assert_eq!(state(&store), NodeState::Ready);
    now = now + Duration::from_millis(200);
    now = write_for_sure(&mut store, &mut dispatcher, now);
    assert_eq!(state(&store), NodeState::Down);
    let closed = dispatcher.actions(&store, now);
    assert!(closed.iter().any(|action| matches!(action, Action::CloseSession { session, .. } if *session == session_id(1))));
    dispatcher.heartbeat(now, session_id(1));
    write(&mut store, &mut dispatcher, now);
    assert_eq!(state(&store), NodeState::Down, "a heartbeat of a closed session revives nobody");
    dispatcher.opened(now, &store, session_id(2), hello(1, vec![]));
    write(&mut store, &mut dispatcher, now);
    assert_eq!(state(&store), NodeState::Ready);
    // A newer leader waits for it twice as long, and calls it unknown until then.
    let mut dispatcher = Dispatcher::new(&store, now, 2);
    write(&mut store, &mut dispatcher, now);
    assert_eq!(state(&store), NodeState::Unknown);
    write(&mut store, &mut dispatcher, now + Duration::from_millis(5900));
    assert_eq!(state(&store), NodeState::Unknown);
    write_for_sure(&mut store, &mut dispatcher, now + Duration::from_secs(6));
    assert_eq!(state(&store), NodeState::Down);
}

/// Nodes 1 to `n` with a session each, and node 2 down if it is none of them.
fn with_nodes(n: u8) -> (Store, Dispatcher) {
    let mut store = store();
    let mut transaction = Transaction::new(START);
    transaction.writes.extend((3..=n).map(|n| Write::Create(Object::Node(Box::new(node(n))))));
    store.apply(2, &transaction).expect("they are new");
    let mut dispatcher = Dispatcher::new(&store, START, 1);
    (1..=n).for_each(|n| dispatcher.opened(START, &store, session_id(n), hello(n, vec![])));
    write(&mut store, &mut dispatcher, START);
    (store, dispatcher)
}

fn n_down(store: &Store) -> usize {
    store.nodes().filter(|node| node.status.state == NodeState::Down).count()
}

#[test]
fn half_of_the_nodes_are_down_at_once_and_more_only_if_a_majority_says_who_leads() {
    let at = |ms| START + Duration::from_millis(ms);
    let beat = |dispatcher: &mut Dispatcher, nodes: std::ops::RangeInclusive<u8>, now| {
        nodes.for_each(|n| dispatcher.heartbeat(now, session_id(n)));
    };
    let (mut store, mut dispatcher) = with_nodes(6);
    beat(&mut dispatcher, 4..=6, at(2_000));
    write(&mut store, &mut dispatcher, at(3_000));
    assert_eq!((n_down(&store), dispatcher.take_question()), (3, false), "half of them");
    // The others fall silent within the same window: that makes more than half.
    write(&mut store, &mut dispatcher, at(5_000));
    write(&mut store, &mut dispatcher, at(60_000));
    assert_eq!(n_down(&store), 3, "without an answer they stay, however long");
    let question = (dispatcher.take_question(), dispatcher.take_question());
    assert_eq!(question, (true, false), "it is asked once");
    beat(&mut dispatcher, 4..=4, at(60_100));
    dispatcher.confirmed();
    write(&mut store, &mut dispatcher, at(60_200));
    assert_eq!(n_down(&store), 5, "one was heard of meanwhile");
    assert_eq!(dispatcher.next_deadline(), Some(at(63_100)));
}

#[test]
fn an_answer_says_nothing_of_a_node_whose_time_was_over_later() {
    let at = |ms| START + Duration::from_millis(ms);
    let (mut store, mut dispatcher) = with_nodes(3);
    dispatcher.heartbeat(at(100), session_id(3));
    write(&mut store, &mut dispatcher, at(3_000));
    assert!(dispatcher.take_question());
    write(&mut store, &mut dispatcher, at(3_100));
    dispatcher.confirmed();
    assert_eq!(dispatcher.next_deadline(), Some(at(3_500)));
    write(&mut store, &mut dispatcher, at(3_499));
    assert_eq!(n_down(&store), 0, "a heartbeat's period has yet to pass");
    write(&mut store, &mut dispatcher, at(3_500));
    assert_eq!(n_down(&store), 2);
    write_for_sure(&mut store, &mut dispatcher, at(3_600));
    assert_eq!(n_down(&store), 3);
}

#[test]
fn a_manager_that_was_stopped_gives_every_node_the_time_of_a_new_leader() {
    let (mut store, mut dispatcher) = with_nodes(3);
    let later = START + Duration::from_secs(60);
    dispatcher.lagged(later);
    write(&mut store, &mut dispatcher, later);
    write(&mut store, &mut dispatcher, later + Duration::from_millis(5_999));
    assert_eq!((n_down(&store), dispatcher.take_question()), (0, false));
    dispatcher.heartbeat(later + Duration::from_secs(5), session_id(1));
    dispatcher.heartbeat(later + Duration::from_secs(5), session_id(2));
    write(&mut store, &mut dispatcher, later + Duration::from_secs(6));
    assert_eq!(n_down(&store), 1);
}

#[test]
fn a_node_that_can_take_no_tasks_is_told_of_the_cluster_alone_and_is_down_with_its_reason() {
    let mut store = store();
    let mut dispatcher = Dispatcher::new(&store, START, 1);
    let reason = "waits for skep-netd at /run/skep/netd.sock";
    let not_ready = || Hello { not_ready: reason.into(), ..hello(1, vec![]) };
    let seen = |store: &Store| {
        let status = &store.node(node_id(1)).expect("the node").status;
        (status.state, status.message.clone())
    };
    let told = |dispatcher: &mut Dispatcher, store: &Store, now| -> Vec<&'static str> {
        let word = |action| match action {
            Action::SendInfo { .. } => "info",
            Action::SendAssignments { .. } => "assignments",
            Action::CloseSession { .. } => "close",
            _ => "another",
        };
        dispatcher.actions(store, now).into_iter().map(word).collect()
    };
    add(&mut store, &mut dispatcher, task(1, 1));
    dispatcher.opened(START, &store, session_id(1), not_ready());
    write(&mut store, &mut dispatcher, START);
    assert_eq!(seen(&store), (NodeState::Unknown, reason.into()), "it may come in time");
    assert_eq!(told(&mut dispatcher, &store, START), ["info"]);
    // Its heartbeats do not make it ready, and its session is not closed for silence.
    let late = START + Duration::from_secs(6);
    dispatcher.heartbeat(late - Duration::from_millis(1), session_id(1));
    write(&mut store, &mut dispatcher, late);
    assert_eq!(seen(&store), (NodeState::Down, reason.into()));
    add(&mut store, &mut dispatcher, task(2, 1));
    assert_eq!(told(&mut dispatcher, &store, late), [""; 0]);
    // It comes again without being ready, and then ready.
    dispatcher.opened(late, &store, session_id(2), not_ready());
    write(&mut store, &mut dispatcher, late);
    assert_eq!(seen(&store), (NodeState::Down, reason.into()));
    assert_eq!(told(&mut dispatcher, &store, late), ["close", "info"]);
    dispatcher.opened(late, &store, session_id(3), hello(1, vec![]));
    write(&mut store, &mut dispatcher, late);
    assert_eq!(seen(&store), (NodeState::Ready, String::new()));
    assert_eq!(told(&mut dispatcher, &store, late), ["close", "info", "assignments"]);
    // From now on it must be heard of, and silence has no other reason.
    let silent = write_for_sure(&mut store, &mut dispatcher, late + Duration::from_millis(3001));
    assert_eq!(seen(&store), (NodeState::Down, "heartbeat failure".into()));
    // The same of one that is down with a reason and then gone.
    dispatcher.opened(silent, &store, session_id(4), not_ready());
    write(&mut store, &mut dispatcher, silent);
    assert_eq!(seen(&store), (NodeState::Down, reason.into()));
    dispatcher.closed(silent, session_id(4), false);
    write(&mut store, &mut dispatcher, silent);
    assert_eq!(seen(&store), (NodeState::Down, "heartbeat failure".into()));
}

#[test]
fn a_setting_that_changes_is_told_to_who_is_there() {
    let mut store = store();
    let mut dispatcher = Dispatcher::new(&store, START, 1);
    dispatcher.opened(START, &store, session_id(1), hello(1, vec![]));
    let told = |dispatcher: &mut Dispatcher, store: &Store| -> Vec<Duration> {
        let actions = dispatcher.actions(store, START).into_iter();
        actions
            .filter_map(|action| if let Action::SendInfo { info, .. } = action { Some(info.barrier_timeout) } else { None })
            .collect()
    };
    assert_eq!(told(&mut dispatcher, &store), [Duration::from_secs(5)]);
    let mut transaction = Transaction::new(START);
    let spec = ClusterSpec { barrier_timeout: Duration::from_secs(9), ..ClusterSpec::default() };
    transaction.writes.push(Write::ClusterSpec(spec));
    apply(&mut store, &mut dispatcher, &transaction);
    assert_eq!(told(&mut dispatcher, &store), [Duration::from_secs(9)]);
    assert_eq!(told(&mut dispatcher, &store), []);
}

#[test]
fn a_new_session_replaces_the_old_and_strangers_are_refused() {
    let store = store();
    let mut dispatcher = Dispatcher::new(&store, START, 1);
    let closed = |dispatcher: &mut Dispatcher| -> Vec<(SessionId, String)> {
        let actions = dispatcher.actions(&store, START).into_iter();
        actions
            .filter_map(
                |action| if let Action::CloseSession { session, reason } = action { Some((session, reason)) } else { None },
            )
            .collect()
    };
    dispatcher.opened(START, &store, session_id(1), hello(1, vec![]));
    dispatcher.opened(START, &store, session_id(2), hello(1, vec![]));
    assert_eq!(closed(&mut dispatcher)[0].0, session_id(1));
    // The end of the old one does not end the new one.
    dispatcher.closed(START, session_id(1), true);
    assert_eq!(dispatcher.by_node.get(&node_id(1)), Some(&session_id(2)));
    dispatcher.opened(START, &store, session_id(3), hello(7, vec![]));
    assert!(closed(&mut dispatcher)[0].1.contains("is not part of the cluster"));
    for n in 0..REGISTRATIONS_MAX as u8 {
        dispatcher.opened(START, &store, session_id(100 + n), hello(1, vec![]));
    }
    let refused = closed(&mut dispatcher);
    assert!(refused.iter().any(|(_, reason)| reason.contains("exceeded rate limit count of registrations")));
}

#[test]
fn assignments_are_complete_first_and_then_a_chain() {
    let mut store = store();
    let mut dispatcher = Dispatcher::new(&store, START, 3);
    add(&mut store, &mut dispatcher, task(1, 1));
    add(&mut store, &mut dispatcher, task(2, 2));
    dispatcher.opened(START, &store, session_id(1), hello(1, vec![]));
    let sent = |dispatcher: &mut Dispatcher, store: &Store| -> Vec<(u64, Assignments)> {
        let actions = dispatcher.actions(store, START).into_iter();
        actions
            .filter_map(|action| {
                if let Action::SendAssignments { term, assignments, .. } = action { Some((term, *assignments)) } else { None }
            })
            .collect()
    };
    let first = sent(&mut dispatcher, &store);
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].0, first[0].1.is_complete, first[0].1.results_in), (3, true, 1));
    assert!(matches!(&first[0].1.changes[..], [AssignmentChange::PutTask(task)] if task.id == task_id(1)));
    assert!(sent(&mut dispatcher, &store).is_empty(), "nothing changed");
    add(&mut store, &mut dispatcher, task(3, 1));
    let next = sent(&mut dispatcher, &store);
    assert_eq!((next[0].1.is_complete, next[0].1.applies_to, next[0].1.results_in), (false, 1, 2));
    // A status alone is no news for the agent that reported it.
    dispatcher.status(START, &store, session_id(1), vec![update(1, TaskState::Running)]);
    write(&mut store, &mut dispatcher, START);
    assert!(sent(&mut dispatcher, &store).is_empty());
}

fn with_secret(store: &mut Store, dispatcher: &mut Dispatcher, n: u8) -> SecretId {
    let id = SecretId::from_random([n; 16]);
    let version = SecretVersion { n: 1, sealed: Sealed::default(), fingerprint: "f".repeat(16), created_at: START };
    let annotations = Annotations { name: format!("s{n}"), ..Annotations::default() };
    let spec = SecretSpec { annotations, versions: vec![version], current: 1 };
    let secret = Secret { id, meta: Meta::default(), spec: Section::new(spec) };
    let transaction = Transaction { writes: vec![Write::Create(Object::Secret(Box::new(secret)))], ..Transaction::new(START) };
    apply(store, dispatcher, &transaction);
    id
}

fn task_with(n: u8, node: u8, secrets: &[(SecretId, u64)]) -> Task {
    let reference = |(id, version): &(SecretId, u64)| SecretReference {
        id: *id,
        name: "s".into(),
        version: Some(*version),
        file: FileTarget { name: "s".into(), uid: 0, gid: 0, mode: 0o400 },
    };
    let mut spec = TaskSpec::default();
    spec.container_spec.secrets = secrets.iter().map(reference).collect();
    Task { spec: Arc::new(spec), ..task(n, node) }
}

fn secrets_put(sent: &[(u64, Assignments)]) -> Vec<(SecretId, u64)> {
    let put = |change: &AssignmentChange| if let AssignmentChange::PutSecret(id, n) = change { Some((*id, *n)) } else { None };
    sent.iter().flat_map(|(_, assignments)| assignments.changes.iter().filter_map(put)).collect()
}

fn sent(store: &Store, dispatcher: &mut Dispatcher, now: Time) -> Vec<(u64, Assignments)> {
    let sent =
        |action| if let Action::SendAssignments { term, assignments, .. } = action { Some((term, *assignments)) } else { None };
    dispatcher.actions(store, now).into_iter().filter_map(sent).collect()
}

/// A task of an older spec may name a secret, or a version of it, that is not there.
#[test]
fn a_value_that_is_not_stored_is_not_named_and_one_that_was_left_out_is_named_again() {
    let mut store = store();
    let mut dispatcher = Dispatcher::new(&store, START, 1);
    let there = with_secret(&mut store, &mut dispatcher, 1);
    let gone = SecretId::from_random([2; 16]);
    add(&mut store, &mut dispatcher, task_with(1, 1, &[(gone, 1), (there, 1), (there, 7)]));
    dispatcher.opened(START, &store, session_id(1), hello(1, Vec::new()));
    let first = sent(&store, &mut dispatcher, START);
    assert_eq!(secrets_put(&first), [(there, 1)]);
    assert!(first.iter().any(|(_, link)| link.changes.iter().any(|change| matches!(change, AssignmentChange::PutTask(_)))));
    // The shell could not open it: the session goes on, and it is tried again.
    dispatcher.values_left_out(START, session_id(1), &[ValueRef::Secret(there, 1)]);
    assert!(sent(&store, &mut dispatcher, START).is_empty());
    let due = START + timing::VALUE_RETRY;
    assert_eq!(dispatcher.next_deadline().map(|at| at <= due), Some(true));
    assert_eq!(secrets_put(&sent(&store, &mut dispatcher, due)), [(there, 1)]);
    assert!(sent(&store, &mut dispatcher, due).is_empty(), "it was not left out again");
}

/// A node joins under a name, and what is placed by name stays where it was meant to be.
#[test]
fn a_node_keeps_the_name_that_it_joined_with_until_a_user_accepts_another() {
    let mut store = store();
    let mut dispatcher = Dispatcher::new(&store, START, 1);
    let mut now = START;
    let mut say = |store: &mut Store, dispatcher: &mut Dispatcher, n: u8, name: &str| {
        let mut hello = hello(1, Vec::new());
        hello.description.hostname = name.into();
        now = now + Duration::from_secs(10);
        dispatcher.opened(now, store, session_id(n), hello);
        write(store, dispatcher, now);
        let node = store.node(node_id(1)).expect("the node");
        (node.description.hostname.clone(), node.status.message.clone())
    };
    let (name, message) = say(&mut store, &mut dispatcher, 1, "db-master");
    assert_eq!(name, "n1");
    assert!(message.contains("its host name is db-master; accept it with"), "{message}");
    assert_eq!(say(&mut store, &mut dispatcher, 2, "\u{1b}[2J").0, "n1");
    assert_eq!(say(&mut store, &mut dispatcher, 3, "n1"), ("n1".into(), String::new()));
    let spec = NodeSpec { hostname: "db-master".into(), ..NodeSpec::default() };
    let transaction = Transaction { writes: vec![Write::NodeSpec(node_id(1), spec)], ..Transaction::new(START) };
    apply(&mut store, &mut dispatcher, &transaction);
    assert_eq!(say(&mut store, &mut dispatcher, 4, "db-master"), ("db-master".into(), String::new()));
}

/// Traffic for a node goes where that node says, and to no other's address.
#[test]
fn a_node_cannot_take_the_address_of_another() {
    let mut store = store();
    let mut dispatcher = Dispatcher::new(&store, START, 1);
    let mut say = |n: u8, session: u8, from: &str, underlay: &str| {
        let mut hello = hello(n, Vec::new());
        hello.address = from.into();
        hello.description.underlay =
            Some(Underlay { address: underlay.parse().expect("an address"), occupied: Vec::new(), lacks_ipv6: String::new() });
        dispatcher.opened(START, &store, session_id(session), hello);
        write(&mut store, &mut dispatcher, START);
        let node = store.node(node_id(n)).expect("the node");
        let address = node.description.underlay.as_ref().map(|underlay| underlay.address.to_string());
        (address, node.status.message.clone())
    };
    assert_eq!(say(1, 1, "192.0.2.1", "198.51.100.1").0.as_deref(), Some("198.51.100.1"), "a data path of its own");
    let (address, message) = say(2, 2, "192.0.2.2", "198.51.100.1");
    assert_eq!(address, None);
    assert!(message.contains("its underlay address 198.51.100.1 is that of node n1"), "{message}");
    assert_eq!(say(2, 3, "192.0.2.2", "192.0.2.1").0, None, "nor the one that the other's session comes from");
    assert_eq!(say(2, 4, "192.0.2.2", "192.0.2.2"), (Some("192.0.2.2".into()), String::new()));
    // What a session comes from is its node's, whoever said so before.
    assert_eq!(say(1, 5, "192.0.2.2", "192.0.2.2").0.as_deref(), Some("192.0.2.2"));
}

/// Words about a state are bounded, steps are not, and the last word counts.
#[test]
fn more_about_the_same_state_is_written_once_a_second() {
    let mut store = store();
    let mut dispatcher = Dispatcher::new(&store, START, 1);
    add(&mut store, &mut dispatcher, task(1, 1));
    dispatcher.opened(START, &store, session_id(1), hello(1, vec![update(1, TaskState::Preparing)]));
    write(&mut store, &mut dispatcher, START);
    let mut written = 0;
    for n in 0..100_u64 {
        let now = START + Duration::from_millis(20 * n);
        let mut words = update(1, TaskState::Preparing);
        words.status.message = format!("pulling, {n}\u{1b}[31m %");
        dispatcher.status(now, &store, session_id(1), vec![words]);
        written += write(&mut store, &mut dispatcher, now);
    }
    assert_eq!(written, 2, "two seconds of chatter");
    let due = dispatcher.next_gate().expect("the last word waits");
    write(&mut store, &mut dispatcher, due);
    assert_eq!(store.task(task_id(1)).expect("the task").status.message, "pulling, 99 %");
    dispatcher.status(due, &store, session_id(1), vec![update(1, TaskState::Ready)]);
    write(&mut store, &mut dispatcher, due);
    assert_eq!(state_of(&store, 1), TaskState::Ready, "a step does not wait");
}
