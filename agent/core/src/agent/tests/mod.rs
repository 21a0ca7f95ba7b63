//! What an agent asks for, and what it says of its tasks.

mod finding;
mod stopping;

use super::*;
use crate::event::{Exit, Found, UnreadableTask};
use skep_model::assignment::SessionInfo;
use skep_model::container::STOP_GRACE;
use skep_model::endpoint::{Publication, PublishMode, PublishedPort, Transport};
use skep_model::network::Attachment;
use skep_model::node::Role;
use skep_model::overlay::OverlayChange;
use skep_model::service::{RestartCondition, TaskSpec};
use skep_model::task::{TaskPlan, TaskStatus};
use skep_model::{Meta, NetworkId, Section, ServiceId};
use std::time::Duration;

fn task(number: u8, desired: TaskState) -> Task {
    let mut spec = TaskSpec::default();
    spec.restart_policy.delay = Duration::from_secs(1);
    Task {
        id: TaskId::from_random([number; 16]),
        meta: Meta::default(),
        service_id: ServiceId::from_random([9; 16]),
        service_name: "web".into(),
        service_labels: Default::default(),
        slot: 1,
        spec: Arc::new(spec),
        spec_version: 1,
        networks: Vec::new(),
        ports: Vec::new(),
        plan: Section::new(TaskPlan::new(desired, Time::ZERO)),
        status: Section::new(TaskStatus::new(TaskState::Assigned, Time::ZERO)),
    }
}

fn info(term: u64) -> Event {
    let info = Box::new(cluster(term, Duration::from_secs(5)));
    Event::SessionUp { session: SessionId::from_random([1; 16]), info }
}

fn cluster(term: u64, barrier_timeout: Duration) -> SessionInfo {
    SessionInfo {
        term,
        heartbeat_period: Duration::from_millis(500),
        managers: Vec::new(),
        role: Role::Worker,
        root_ca: String::new(),
        node_name: String::new(),
        data_path_port: 4789,
        barrier_timeout,
        isolate_nodes: false,
    }
}

fn complete(tasks: Vec<Task>) -> Event {
    let changes = tasks.into_iter().map(|task| AssignmentChange::PutTask(Arc::new(task))).collect();
    let assignments = Assignments { is_complete: true, applies_to: 0, results_in: 1, changes };
    Event::Assignments { term: 1, assignments: Box::new(assignments), unreadable: Vec::new() }
}

fn exit(attempt: u64, code: i32) -> Exit {
    Exit { attempt, code, oom_killed: false, at: Time::ZERO, log_tail: vec!["last words".into()] }
}

fn at(seconds: u64) -> Time {
    Time::from_millis(seconds * 1000)
}

/// An agent with one running task, and the task's id.
fn running() -> (Agent, TaskId) {
    let mut agent = Agent::new(Vec::new(), false, at(0));
    let task = task(1, TaskState::Running);
    let id = task.id;
    agent.handle(at(0), info(1));
    agent.handle(at(0), complete(vec![task]));
    assert!(agent.take_actions().iter().any(|action| matches!(action, Action::Prepare { .. })));
    agent.handle(at(1), Event::Prepared { task: id, ports: Vec::new() });
    assert!(agent.take_actions().contains(&Action::Start { task: id }));
    agent.handle(at(1), Event::Started { task: id, attempt: 0, pid: 7, has_check: false });
    assert_eq!(state(&agent, id), TaskState::Running);
    agent.take_actions();
    (agent, id)
}

fn state(agent: &Agent, id: TaskId) -> TaskState {
    agent.tasks[&id].status.state
}

/// A task that a restarted daemon has on record.
fn recorded(task: &Task, state: TaskState) -> RecoveredTask {
    let status = TaskStatus { state, ..task.status.value.clone() };
    RecoveredTask { id: task.id, task: Some(Arc::new(task.clone())), status, is_released: false }
}

/// Of all actions, those that bring a container to its end.
fn steps(agent: &mut Agent) -> Vec<Action> {
    let is_step = |action: &Action| matches!(action, Action::Drain { .. } | Action::Stop { .. } | Action::Kill { .. });
    agent.take_actions().into_iter().filter(is_step).collect()
}

fn is_prepare(action: &Action) -> bool {
    matches!(action, Action::Prepare { .. })
}

fn offline(mut task: Task) -> Task {
    Arc::make_mut(&mut task.spec).start_offline = true;
    task
}

#[test]
fn with_a_session_only_the_manager_restarts() {
    let (mut agent, id) = running();
    agent.handle(at(2), Event::Exited { task: id, exit: exit(0, 3) });
    assert_eq!(state(&agent, id), TaskState::Failed);
    let status = &agent.tasks[&id].status;
    assert_eq!((status.error.as_str(), status.log_tail.len()), ("task: non-zero exit (3)", 1));
    assert!(agent.take_actions().contains(&Action::Release { task: id }));
}

#[test]
fn the_exit_decides_and_a_lack_of_memory_is_said_beside_it() {
    for (code, desired, expected) in [
        (0, TaskState::Complete, ("", "finished; one of its processes was killed for lack of memory")),
        (1, TaskState::Failed, ("task: non-zero exit (1): out of memory", "failed")),
        (137, TaskState::Failed, ("task: non-zero exit (137): out of memory", "failed")),
    ] {
        let (mut agent, id) = running();
        agent.handle(at(2), Event::Exited { task: id, exit: Exit { oom_killed: true, ..exit(0, code) } });
        assert_eq!(state(&agent, id), desired);
        let status = &agent.tasks[&id].status;
        assert_eq!((status.error.as_str(), status.message.as_str()), expected);
    }
}

#[test]
fn without_a_session_the_shim_restarts_in_place_after_the_delay() {
    let (mut agent, id) = running();
    agent.handle(at(2), Event::SessionDown);
    agent.handle(at(3), Event::Exited { task: id, exit: exit(0, 3) });
    assert_eq!((state(&agent, id), agent.next_wakeup()), (TaskState::Running, Some(at(4))));
    agent.take_actions();
    agent.handle(at(4), Event::Tick);
    assert!(agent.take_actions().contains(&Action::Restart { task: id, attempt: 1 }));
    agent.handle(at(4), Event::Started { task: id, attempt: 1, pid: 8, has_check: false });
    assert_eq!((state(&agent, id), agent.statuses()[0].status.attempt), (TaskState::Running, 1));
}

#[test]
fn a_policy_of_none_ends_the_task_even_without_a_session() {
    let mut agent = Agent::new(Vec::new(), false, at(0));
    let mut task = task(1, TaskState::Running);
    let id = task.id;
    Arc::make_mut(&mut task.spec).restart_policy.condition = RestartCondition::None;
    agent.handle(at(0), info(1));
    agent.handle(at(0), complete(vec![task]));
    agent.handle(at(0), Event::Prepared { task: id, ports: Vec::new() });
    agent.handle(at(0), Event::Started { task: id, attempt: 0, pid: 7, has_check: false });
    agent.handle(at(1), Event::SessionDown);
    agent.handle(at(1), Event::Exited { task: id, exit: exit(0, 0) });
    assert_eq!(state(&agent, id), TaskState::Complete);
}

#[test]
fn an_unhealthy_container_is_stopped_and_fails() {
    let mut agent = Agent::new(Vec::new(), false, at(0));
    let task = task(1, TaskState::Running);
    let id = task.id;
    agent.handle(at(0), info(1));
    agent.handle(at(0), complete(vec![task]));
    agent.handle(at(0), Event::Prepared { task: id, ports: Vec::new() });
    agent.handle(at(0), Event::Started { task: id, attempt: 0, pid: 7, has_check: true });
    assert_eq!(state(&agent, id), TaskState::Starting);
    agent.handle(at(1), Event::Health { task: id, attempt: 0, healthy: true, output: String::new() });
    assert_eq!(state(&agent, id), TaskState::Running);
    agent.take_actions();
    agent.handle(at(2), Event::Health { task: id, attempt: 0, healthy: false, output: "no answer".into() });
    assert!(agent.take_actions().iter().any(|action| matches!(action, Action::Stop { .. })));
    agent.handle(at(3), Event::Exited { task: id, exit: exit(0, 137) });
    assert_eq!(agent.tasks[&id].status.error, "task: non-zero exit (137): unhealthy container: no answer");
}

#[test]
fn a_shim_that_does_not_stop_is_killed() {
    let (mut agent, id) = running();
    agent.handle(at(2), complete(vec![task(1, TaskState::Shutdown)]));
    assert!(agent.take_actions().iter().any(|action| matches!(action, Action::Stop { .. })));
    let deadline = agent.next_wakeup().expect("a stop has a deadline");
    agent.handle(deadline, Event::Tick);
    assert!(agent.take_actions().contains(&Action::Kill { task: id }));
    agent.handle(deadline, Event::ShimLost { task: id });
    assert_eq!(state(&agent, id), TaskState::Shutdown);
}

#[test]
fn a_complete_set_removes_what_it_does_not_name() {
    let (mut agent, id) = running();
    agent.handle(at(2), complete(Vec::new()));
    assert!(agent.take_actions().contains(&Action::Remove { task: id }));
    assert_eq!(agent.statuses().len(), 0);
}

#[test]
fn ports_that_the_node_chose_are_reported_and_kept() {
    let port = |published_port| PublishedPort {
        transport: Transport::Tcp,
        target_port: 80,
        published_port,
        publish_mode: PublishMode::Host,
    };
    let mut agent = Agent::new(Vec::new(), false, at(0));
    let mut task = task(1, TaskState::Running);
    task.ports = vec![port(0)];
    let id = task.id;
    agent.handle(at(0), info(1));
    agent.handle(at(0), complete(vec![task]));
    agent.take_actions();
    agent.handle(at(1), Event::Prepared { task: id, ports: vec![port(32_768)] });
    let actions = agent.take_actions();
    let saved = |action: &Action| matches!(action, Action::Save { status, .. } if status.ports == [port(32_768)]);
    let said = |action: &Action| matches!(action, Action::Report(said) if said[0].status.ports == [port(32_768)]);
    assert!(actions.iter().any(saved) && actions.iter().any(said), "{actions:?}");
    agent.handle(at(1), Event::Started { task: id, attempt: 0, pid: 7, has_check: false });
    assert_eq!(agent.statuses()[0].status.ports, [port(32_768)]);
}

#[test]
fn a_gap_in_the_chain_opens_a_new_session_and_older_terms_are_refused() {
    let (mut agent, _) = running();
    let gap = Assignments { is_complete: false, applies_to: 5, results_in: 6, changes: Vec::new() };
    agent.handle(at(2), Event::Assignments { term: 1, assignments: Box::new(gap), unreadable: Vec::new() });
    assert!(matches!(agent.take_actions()[..], [Action::ResetSession { .. }]));
    agent.handle(at(3), info(4));
    agent.handle(at(3), info(2));
    assert!(agent.take_actions().iter().any(|action| matches!(action, Action::ResetSession { .. })));
}

/// A task that cannot be read fails by itself; one that runs goes on, though the set is complete.
#[test]
fn a_task_that_cannot_be_read_fails_alone_and_one_that_runs_goes_on() {
    let (mut agent, runs) = running();
    let unreadable = |id, observed| UnreadableTask { id, observed, error: "spec: must be given".into() };
    let [fresh, lost] = [2, 3].map(|number| TaskId::from_random([number; 16]));
    let good = task(4, TaskState::Running);
    let changes = vec![AssignmentChange::PutTask(Arc::new(good.clone()))];
    let assignments = Box::new(Assignments { is_complete: true, applies_to: 0, results_in: 1, changes });
    let unreadable =
        vec![unreadable(runs, TaskState::Running), unreadable(fresh, TaskState::Assigned), unreadable(lost, TaskState::Running)];
    agent.handle(at(2), Event::Assignments { term: 1, assignments, unreadable });
    let actions = agent.take_actions();
    assert_eq!(state(&agent, runs), TaskState::Running);
    assert!(!actions.iter().any(|action| matches!(action, Action::Remove { .. } | Action::Kill { .. })), "{actions:?}");
    assert!(actions.iter().any(|action| matches!(action, Action::Prepare { task, .. } if task.id == good.id)), "{actions:?}");
    let said = actions.iter().filter_map(|action| if let Action::Report(updates) = action { Some(updates) } else { None });
    let said: BTreeMap<TaskId, TaskStatus> = said.flatten().map(|update| (update.task, update.status.clone())).collect();
    assert_eq!(said.get(&runs), None);
    assert_eq!((said[&fresh].state, said[&lost].state), (TaskState::Rejected, TaskState::Failed));
    assert_eq!(said[&fresh].error, "this node cannot read the task: spec: must be given");
    assert_eq!(said[&fresh].timestamp, at(2));
}
