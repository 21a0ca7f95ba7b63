use super::*;
use crate::event::{Exit, Found};
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
    }
}

fn complete(tasks: Vec<Task>) -> Event {
    let changes = tasks.into_iter().map(|task| AssignmentChange::PutTask(Arc::new(task))).collect();
    let assignments = Assignments { is_complete: true, applies_to: 0, results_in: 1, changes };
    Event::Assignments { term: 1, assignments: Box::new(assignments) }
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
    agent.handle(at(2), Event::Assignments { term: 1, assignments: Box::new(gap) });
    assert!(matches!(agent.take_actions()[..], [Action::ResetSession { .. }]));
    agent.handle(at(3), info(4));
    agent.handle(at(3), info(2));
    assert!(agent.take_actions().iter().any(|action| matches!(action, Action::ResetSession { .. })));
}

/// A task that a restarted daemon has on record.
fn recorded(task: &Task, state: TaskState) -> RecoveredTask {
    let status = TaskStatus { state, ..task.status.value.clone() };
    RecoveredTask { id: task.id, task: Some(Arc::new(task.clone())), status, is_released: false }
}

/// A daemon that has one task on record and is told what there is of it.
fn recovered(task: &Task, state: TaskState, found: Found) -> Agent {
    let mut agent = Agent::new(vec![recorded(task, state)], false, at(9));
    assert_eq!(agent.take_actions(), [], "nothing is done before it is known what there is");
    agent.handle(at(9), Event::Found { task: task.id, found });
    agent
}

fn offline(mut task: Task) -> Task {
    Arc::make_mut(&mut task.spec).start_offline = true;
    task
}

fn with_secret(mut task: Task) -> Task {
    use skep_model::container::{FileTarget, SecretReference};
    let file = FileTarget { name: "key".into(), uid: 0, gid: 0, mode: 0o444 };
    let reference = SecretReference { id: SecretId::from_random([3; 16]), name: "key".into(), version: Some(1), file };
    Arc::make_mut(&mut task.spec).container_spec.secrets.push(reference);
    task
}

fn is_prepare(action: &Action) -> bool {
    matches!(action, Action::Prepare { .. })
}

#[test]
fn after_a_reboot_a_task_waits_for_a_manager_unless_its_service_says_otherwise() {
    let plain = task(1, TaskState::Running);
    let mut agent = recovered(&plain, TaskState::Running, Found::Nothing);
    assert!(!agent.take_actions().iter().any(is_prepare));
    let status = &agent.tasks[&plain.id].status;
    assert!(status.error.contains("does not say --start-offline"), "{}", status.error);
    assert_eq!((status.message.as_str(), agent.next_wakeup()), (crate::task::WAITING_FOR_MANAGER, None));
    agent.handle(at(10), info(1));
    let status = &agent.tasks[&plain.id].status;
    assert_eq!((status.state, status.error.as_str()), (TaskState::Failed, "the node was restarted"));

    // The restart delay of its policy comes first.
    let early = offline(plain);
    let mut agent = recovered(&early, TaskState::Running, Found::Nothing);
    assert!(!agent.take_actions().iter().any(is_prepare));
    assert_eq!(agent.next_wakeup(), Some(at(10)));
    agent.handle(at(10), Event::Tick);
    let actions = agent.take_actions();
    assert!(actions.iter().any(|action| matches!(action, Action::Prepare { attempt: 1, .. })), "{actions:?}");
    agent.handle(at(10), Event::Prepared { task: early.id, ports: Vec::new() });
    assert!(agent.take_actions().contains(&Action::Start { task: early.id }));
    agent.handle(at(10), Event::Started { task: early.id, attempt: 1, pid: 7, has_check: false });
    // A manager that comes back finds it running and has nothing to replace.
    agent.handle(at(11), info(1));
    assert_eq!(state(&agent, early.id), TaskState::Running);
}

#[test]
fn what_only_a_manager_can_bring_is_waited_for_whatever_the_service_says() {
    let task = offline(with_secret(task(1, TaskState::Running)));
    let mut agent = recovered(&task, TaskState::Running, Found::Nothing);
    agent.handle(at(20), Event::Tick);
    assert!(!agent.take_actions().iter().any(is_prepare));
    assert!(agent.tasks[&task.id].status.error.contains("its secrets and configs"));
    agent.handle(at(21), info(1));
    assert_eq!(state(&agent, task.id), TaskState::Failed);
}

#[test]
fn a_manager_that_is_reached_before_a_task_is_found_replaces_it() {
    let task = offline(task(1, TaskState::Running));
    let mut agent = Agent::new(vec![recorded(&task, TaskState::Running)], false, at(9));
    agent.handle(at(9), info(1));
    agent.handle(at(9), complete(vec![task.clone()]));
    assert_eq!(state(&agent, task.id), TaskState::Running, "it is not known yet");
    agent.handle(at(10), Event::Found { task: task.id, found: Found::Nothing });
    assert_eq!(state(&agent, task.id), TaskState::Failed);
}

#[test]
fn a_policy_without_restarts_holds_after_a_reboot() {
    let mut task = offline(task(1, TaskState::Running));
    Arc::make_mut(&mut task.spec).restart_policy.condition = RestartCondition::None;
    let agent = recovered(&task, TaskState::Running, Found::Nothing);
    assert_eq!(state(&agent, task.id), TaskState::Failed);
}

#[test]
fn a_start_that_was_recorded_and_never_asked_for_is_made_up_for_when_a_manager_says_so() {
    let task = task(1, TaskState::Running);
    let mut agent = recovered(&task, TaskState::Starting, Found::Fresh);
    assert!(!agent.take_actions().iter().any(is_prepare), "it may have been replaced meanwhile");
    agent.handle(at(10), info(1));
    agent.handle(at(10), complete(vec![task.clone()]));
    let actions = agent.take_actions();
    assert!(actions.iter().any(|action| matches!(action, Action::Prepare { attempt: 0, .. })), "{actions:?}");
    assert_eq!(state(&agent, task.id), TaskState::Starting);
}

#[test]
fn a_start_is_on_record_before_it_is_asked_for() {
    let mut agent = Agent::new(Vec::new(), false, at(0));
    let task = task(1, TaskState::Running);
    agent.handle(at(0), info(1));
    agent.handle(at(0), complete(vec![task.clone()]));
    agent.handle(at(1), Event::Prepared { task: task.id, ports: Vec::new() });
    let actions = agent.take_actions();
    let saved =
        actions.iter().position(|action| matches!(action, Action::Save { status, .. } if status.state == TaskState::Starting));
    let started = actions.iter().position(|action| matches!(action, Action::Start { .. }));
    assert!(saved.is_some() && saved < started, "{actions:?}");
    agent.handle(at(1), Event::Started { task: task.id, attempt: 0, pid: 7, has_check: false });
    agent.take_actions();
    // And so are a restart, and the end before what it frees.
    agent.handle(at(2), Event::SessionDown);
    agent.handle(at(2), Event::Exited { task: task.id, exit: exit(0, 1) });
    agent.take_actions();
    agent.handle(at(3), Event::Tick);
    let actions = agent.take_actions();
    assert!(
        matches!(&actions[..], [Action::Save { status, .. }, Action::Restart { attempt: 1, .. }] if status.attempt == 1),
        "{actions:?}"
    );
    agent.handle(at(3), info(1));
    agent.handle(at(3), Event::ShimLost { task: task.id });
    let actions = agent.take_actions();
    let saved =
        actions.iter().position(|action| matches!(action, Action::Save { status, .. } if status.state == TaskState::Failed));
    let released = actions.iter().position(|action| matches!(action, Action::Release { .. }));
    assert!(saved.is_some() && saved < released, "{actions:?}");
}

#[test]
fn a_living_container_is_adopted_as_it_is() {
    let task = task(1, TaskState::Running);
    let mut recorded = recorded(&task, TaskState::Running);
    recorded.status.running_since = Some(at(5));
    let mut agent = Agent::new(vec![recorded], false, at(9));
    let found = Found::Running { pid: 7, attempt: 0, healthy: None, has_check: false };
    agent.handle(at(9), Event::Found { task: task.id, found });
    assert!(agent.take_actions().iter().all(|action| matches!(action, Action::Save { .. })));
    assert_eq!((state(&agent, task.id), agent.tasks[&task.id].status.running_since), (TaskState::Running, Some(at(5))));
}

#[test]
fn a_container_that_cannot_be_heard_is_left_alone_until_it_is_to_end() {
    let task = task(1, TaskState::Running);
    let mut agent = Agent::new(vec![recorded(&task, TaskState::Running)], false, at(9));
    agent.handle(at(9), info(1));
    agent.handle(at(9), complete(vec![task.clone()]));
    agent.handle(at(100_000), Event::Tick);
    let is_touching = |action: &Action| !matches!(action, Action::Network { .. } | Action::Report(_));
    assert!(!agent.take_actions().iter().any(is_touching));
    assert_eq!((state(&agent, task.id), agent.next_wakeup()), (TaskState::Running, None));
    let stopped = Task { plan: Section::new(TaskPlan::new(TaskState::Shutdown, Time::ZERO)), ..task.clone() };
    agent.handle(at(100_000), complete(vec![stopped]));
    let limit = agent.next_wakeup().expect("an end has a deadline");
    assert!(limit >= at(100_000) + STOP_GRACE);
    assert_eq!(steps(&mut agent), []);
    agent.handle(limit, Event::Tick);
    assert_eq!(steps(&mut agent), [Action::Kill { task: task.id }]);
    agent.handle(limit, Event::ShimLost { task: task.id });
    assert_eq!(state(&agent, task.id), TaskState::Shutdown);
}

#[test]
fn a_shim_that_is_heard_late_is_stopped_as_any_other() {
    let task = task(1, TaskState::Shutdown);
    let found = Found::Running { pid: 7, attempt: 0, healthy: None, has_check: false };
    let mut agent = Agent::new(vec![recorded(&task, TaskState::Running)], false, at(9));
    agent.handle(at(10), Event::Found { task: task.id, found });
    assert_eq!(steps(&mut agent), [Action::Stop { task: task.id, grace: STOP_GRACE }]);
}

#[test]
fn an_exit_of_an_earlier_attempt_says_nothing_of_the_newest() {
    let task = offline(task(1, TaskState::Running));
    let restarted = |found: Found| {
        let mut record = recorded(&task, TaskState::Running);
        record.status.attempt = 2;
        let mut agent = Agent::new(vec![record], false, at(9));
        agent.handle(at(9), Event::Found { task: task.id, found });
        agent
    };
    // Exit 0 of attempt 1, and the machine was restarted while attempt 2 ran.
    let mut agent = restarted(Found::Exited { exit: exit(1, 0), shim_lives: false });
    assert_eq!((state(&agent, task.id), agent.next_wakeup()), (TaskState::Running, Some(at(10))));
    agent.handle(at(10), Event::Tick);
    assert!(agent.take_actions().iter().any(|action| matches!(action, Action::Prepare { attempt: 3, .. })));
    // The daemon died between the record of attempt 2 and the request.
    let mut agent = restarted(Found::Exited { exit: exit(1, 3), shim_lives: true });
    agent.handle(at(10), Event::Tick);
    assert!(agent.take_actions().contains(&Action::Restart { task: task.id, attempt: 3 }));
}

#[test]
fn an_ended_task_is_released_until_that_is_done() {
    let task = task(1, TaskState::Running);
    let release = |is_released| {
        let record = RecoveredTask { is_released, ..recorded(&task, TaskState::Failed) };
        Agent::new(vec![record], false, at(9)).take_actions()
    };
    assert_eq!(release(false), [Action::Release { task: task.id }]);
    assert_eq!(release(true), []);
}

#[test]
fn a_shim_without_a_record_is_kept_until_a_manager_has_said_everything() {
    let (known, foreign) = (task(1, TaskState::Running), task(2, TaskState::Running));
    let unknown = |task: &Task| RecoveredTask { task: None, ..recorded(task, TaskState::New) };
    let mut agent = Agent::new(vec![unknown(&known), unknown(&foreign)], false, at(9));
    let found = || Found::Running { pid: 7, attempt: 3, healthy: None, has_check: false };
    for id in [known.id, foreign.id] {
        agent.handle(at(9), Event::Found { task: id, found: found() });
    }
    agent.handle(at(10), info(1));
    assert_eq!((agent.take_actions(), agent.statuses().len()), (vec![], 0));
    let mut named = known.clone();
    named.status.value.state = TaskState::Running;
    agent.handle(at(11), complete(vec![named]));
    let actions = agent.take_actions();
    assert!(actions.contains(&Action::Remove { task: foreign.id }), "{actions:?}");
    let touches = |action: &Action| matches!(action, Action::Kill { .. }) || *action == Action::Remove { task: known.id };
    assert!(!actions.iter().any(touches));
    assert_eq!((state(&agent, known.id), agent.statuses()[0].status.attempt), (TaskState::Running, 3));

    // One that ended before it was named ended as it did.
    let mut agent = Agent::new(vec![unknown(&known)], false, at(9));
    agent.handle(at(9), Event::Found { task: known.id, found: found() });
    agent.handle(at(9), Event::Exited { task: known.id, exit: exit(3, 4) });
    agent.handle(at(10), info(1));
    agent.handle(at(10), complete(vec![known.clone()]));
    assert_eq!(agent.tasks[&known.id].status.error, "task: non-zero exit (4)");
}

#[test]
fn without_a_manager_a_restart_that_fails_is_tried_again() {
    let (mut agent, id) = running();
    agent.handle(at(2), Event::SessionDown);
    agent.handle(at(3), Event::Exited { task: id, exit: exit(0, 3) });
    for attempt in 1..5 {
        let due = agent.next_wakeup().expect("it is tried again");
        agent.take_actions();
        agent.handle(due, Event::Tick);
        assert!(agent.take_actions().contains(&Action::Restart { task: id, attempt }));
        agent.handle(due, Event::StartFailed { task: id, error: "no room".into() });
        assert_eq!((state(&agent, id), agent.tasks[&id].status.error.as_str()), (TaskState::Running, "no room"));
    }
    // The shim is killed: the container is made anew, as the daemon was told to run it.
    let due = agent.next_wakeup().expect("it is tried again");
    agent.handle(due, Event::Tick);
    agent.handle(due, Event::ShimLost { task: id });
    agent.take_actions();
    let due = agent.next_wakeup().expect("it is tried again");
    agent.handle(due, Event::Tick);
    assert!(agent.take_actions().iter().any(|action| matches!(action, Action::Prepare { attempt: 6, .. })));
    agent.handle(due, Event::PrepareFailed { task: id, error: "no registry".into() });
    assert!(agent.next_wakeup().is_some(), "and that is tried again as well");
    // Back with a manager it is the manager's.
    agent.handle(due, info(1));
    assert_eq!(state(&agent, id), TaskState::Failed);
}

#[test]
fn a_policys_number_of_attempts_ends_restarts_that_fail() {
    let mut agent = Agent::new(Vec::new(), false, at(0));
    let mut task = task(1, TaskState::Running);
    Arc::make_mut(&mut task.spec).restart_policy.max_attempts = 2;
    let id = task.id;
    agent.handle(at(0), info(1));
    agent.handle(at(0), complete(vec![task]));
    agent.handle(at(0), Event::Prepared { task: id, ports: Vec::new() });
    agent.handle(at(0), Event::Started { task: id, attempt: 0, pid: 7, has_check: false });
    agent.handle(at(1), Event::SessionDown);
    agent.handle(at(1), Event::Exited { task: id, exit: exit(0, 3) });
    for _ in 0..2 {
        let due = agent.next_wakeup().expect("it is tried again");
        agent.handle(due, Event::Tick);
        agent.handle(due, Event::StartFailed { task: id, error: "no room".into() });
    }
    assert_eq!((state(&agent, id), agent.next_wakeup()), (TaskState::Failed, None));
}

#[test]
fn what_a_shim_said_while_it_could_not_be_heard_is_made_up_for() {
    let (mut agent, id) = running();
    agent.handle(at(2), Event::Found { task: id, found: Found::Exited { exit: exit(0, 3), shim_lives: true } });
    assert_eq!(agent.tasks[&id].status.error, "task: non-zero exit (3)");
    let (mut agent, id) = running();
    agent.handle(at(2), Event::Found { task: id, found: Found::Running { pid: 7, attempt: 0, healthy: None, has_check: false } });
    assert_eq!((state(&agent, id), agent.take_actions()), (TaskState::Running, vec![]));
    agent.handle(at(3), Event::Found { task: id, found: Found::Killed });
    assert_eq!(agent.tasks[&id].status.error, "the shim of the container was killed");
}

fn networked(number: u8, desired: TaskState, publication: Publication) -> Task {
    let mut task = task(number, desired);
    let network = NetworkId::from_random([5; 16]);
    task.networks = vec![Attachment { network, addresses: vec!["10.0.0.5".parse().unwrap()], aliases: Vec::new() }];
    task.plan.value.endpoint.publication = publication;
    task
}

fn link(version: u64, changes: Vec<AssignmentChange>) -> Event {
    let assignments = Assignments { is_complete: false, applies_to: version - 1, results_in: version, changes };
    Event::Assignments { term: 1, assignments: Box::new(assignments) }
}

/// An agent whose task runs and is then told to stop, and what it wants done.
fn told_to_stop(publication: Publication, adjust: impl Fn(&mut Task)) -> (Agent, TaskId, Vec<Action>) {
    let assigned = |desired, publication| {
        let mut task = networked(1, desired, publication);
        adjust(&mut task);
        task
    };
    let mut agent = Agent::new(Vec::new(), false, at(0));
    let task = assigned(TaskState::Running, Publication::Unpublished);
    let id = task.id;
    agent.handle(at(0), info(1));
    agent.handle(at(0), complete(vec![task]));
    agent.handle(at(0), Event::Prepared { task: id, ports: Vec::new() });
    agent.handle(at(0), Event::Started { task: id, attempt: 0, pid: 7, has_check: false });
    agent.take_actions();
    let stopping = Arc::new(assigned(TaskState::Shutdown, publication));
    agent.handle(at(10), link(2, vec![AssignmentChange::PutTask(stopping)]));
    let actions = steps(&mut agent);
    (agent, id, actions)
}

/// Of all actions, those that bring a container to its end.
fn steps(agent: &mut Agent) -> Vec<Action> {
    let is_step = |action: &Action| matches!(action, Action::Drain { .. } | Action::Stop { .. } | Action::Kill { .. });
    agent.take_actions().into_iter().filter(is_step).collect()
}

fn may_stop(id: TaskId) -> Event {
    link(3, vec![AssignmentChange::MayStop(id)])
}

#[test]
fn a_task_that_was_to_be_found_is_withdrawn_then_drained_then_stopped() {
    let (mut agent, id, actions) = told_to_stop(Publication::Withdrawn, |_| {});
    assert_eq!(actions, []);
    agent.handle(at(11), may_stop(id));
    assert_eq!(steps(&mut agent), [Action::Drain { task: id, limit: STOP_GRACE }]);
    agent.handle(at(12), Event::Drained { task: id });
    assert_eq!(steps(&mut agent), [Action::Stop { task: id, grace: STOP_GRACE }]);
    agent.handle(at(13), Event::Exited { task: id, exit: exit(0, 143) });
    assert_eq!((state(&agent, id), agent.next_wakeup()), (TaskState::Shutdown, None));
}

#[test]
fn no_step_of_a_stop_waits_for_ever() {
    let (mut agent, id, _) = told_to_stop(Publication::Withdrawn, |_| {});
    agent.handle(at(11), Event::SessionDown);
    assert_eq!((steps(&mut agent), agent.next_wakeup()), (vec![], Some(at(16))));
    agent.handle(at(16), Event::Tick);
    assert_eq!(steps(&mut agent), [Action::Drain { task: id, limit: STOP_GRACE }]);
    assert_eq!(agent.next_wakeup(), Some(at(28)));
    agent.handle(at(28), Event::Tick);
    assert_eq!(steps(&mut agent), [Action::Stop { task: id, grace: STOP_GRACE }]);
    agent.handle(at(48), Event::Tick);
    assert_eq!(steps(&mut agent), [Action::Kill { task: id }]);
}

#[test]
fn a_withdrawal_is_waited_for_a_second_longer_than_the_cluster_waits() {
    let limit = |told: Option<SessionInfo>| {
        let mut agent = Agent::new(Vec::new(), false, at(0));
        let task = networked(1, TaskState::Running, Publication::Published);
        let id = task.id;
        agent.handle(at(0), info(1));
        agent.handle(at(0), complete(vec![task]));
        agent.handle(at(0), Event::Prepared { task: id, ports: Vec::new() });
        agent.handle(at(0), Event::Started { task: id, attempt: 0, pid: 7, has_check: false });
        if let Some(info) = told {
            agent.handle(at(1), Event::Told { info: Box::new(info) });
        }
        let stopping = Arc::new(networked(1, TaskState::Shutdown, Publication::Withdrawn));
        agent.handle(at(10), link(2, vec![AssignmentChange::PutTask(stopping)]));
        let limit = agent.next_wakeup().expect("a withdrawal has a limit");
        // One that runs already stays as it is.
        agent.handle(at(11), Event::Told { info: Box::new(cluster(1, Duration::from_secs(60))) });
        assert_eq!((steps(&mut agent), agent.next_wakeup()), (vec![], Some(limit)));
        agent.handle(limit, Event::Tick);
        assert_eq!(steps(&mut agent), [Action::Drain { task: id, limit: STOP_GRACE }]);
        limit
    };
    let seconds = Duration::from_secs;
    assert_eq!(limit(None), at(16));
    assert_eq!(limit(Some(cluster(1, seconds(30)))), at(41));
    assert_eq!(limit(Some(cluster(1, Duration::from_millis(100)))), at(11) + Duration::from_millis(100));
    // A manager that does not say waits as long as all did once; one of the past is not heard.
    assert_eq!(limit(Some(cluster(1, Duration::ZERO))), at(16));
    assert_eq!(limit(Some(cluster(0, seconds(30)))), at(16));
}

#[test]
fn what_was_never_to_be_found_or_is_not_to_be_drained_skips_the_step() {
    let second = Duration::from_secs(1);
    type Adjust = fn(&mut Task);
    let drain_off: Adjust = |task| Arc::make_mut(&mut task.spec).container_spec.stop_drain = Some(Duration::ZERO);
    let short: Adjust = |task| Arc::make_mut(&mut task.spec).container_spec.stop_grace_period = Some(Duration::from_secs(1));
    let long: Adjust = |task| Arc::make_mut(&mut task.spec).container_spec.stop_drain = Some(Duration::from_secs(30));
    let no_network: Adjust = |task| task.networks.clear();
    let host_port: Adjust = |task| {
        task.networks.clear();
        task.ports.push(PublishedPort {
            transport: Transport::Tcp,
            target_port: 80,
            published_port: 8080,
            publish_mode: PublishMode::Host,
        });
    };
    let (drain, stop) = (|limit| move |task| Action::Drain { task, limit }, |grace| move |task| Action::Stop { task, grace });
    type Expected = Box<dyn Fn(TaskId) -> Action>;
    // What is wanted at once, and after the word that it may stop.
    type Row<'a> = (&'a str, Publication, Adjust, Option<Expected>, Option<Expected>);
    let table: Vec<Row<'_>> = vec![
        ("never published", Publication::Unpublished, |_| {}, Some(Box::new(stop(STOP_GRACE))), None),
        ("no network", Publication::Withdrawn, no_network, Some(Box::new(stop(STOP_GRACE))), None),
        ("a port of the node", Publication::Withdrawn, host_port, None, Some(Box::new(drain(STOP_GRACE)))),
        ("drain off", Publication::Withdrawn, drain_off, None, Some(Box::new(stop(STOP_GRACE)))),
        ("a short grace", Publication::Withdrawn, short, None, Some(Box::new(drain(second)))),
        ("a long drain", Publication::Withdrawn, long, None, Some(Box::new(drain(second * 30)))),
    ];
    for (name, publication, adjust, at_once, then) in table {
        let (mut agent, id, actions) = told_to_stop(publication, adjust);
        assert_eq!(actions, at_once.map(|expected| expected(id)).into_iter().collect::<Vec<_>>(), "{name}");
        agent.handle(at(11), may_stop(id));
        assert_eq!(steps(&mut agent), then.map(|expected| expected(id)).into_iter().collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn a_container_that_ends_while_it_is_withdrawn_or_drained_has_ended() {
    for is_draining in [false, true] {
        let (mut agent, id, _) = told_to_stop(Publication::Withdrawn, |_| {});
        if is_draining {
            agent.handle(at(11), may_stop(id));
        }
        agent.take_actions();
        agent.handle(at(12), Event::Exited { task: id, exit: exit(0, 0) });
        assert_eq!((state(&agent, id), agent.next_wakeup()), (TaskState::Shutdown, None));
        agent.handle(at(13), Event::Drained { task: id });
        assert_eq!(steps(&mut agent), []);
    }
}

#[test]
fn a_stop_that_a_restart_of_the_daemon_cut_short_begins_anew() {
    let task = networked(1, TaskState::Shutdown, Publication::Withdrawn);
    let id = task.id;
    let found = Found::Running { pid: 7, attempt: 0, healthy: None, has_check: false };
    let mut agent = Agent::new(vec![recorded(&task, TaskState::Running)], false, at(20));
    agent.handle(at(20), Event::Found { task: id, found });
    assert_eq!((steps(&mut agent), agent.next_wakeup()), (vec![], Some(at(26))));
    agent.handle(at(21), info(1));
    let put = AssignmentChange::PutTask(Arc::new(task));
    let changes = vec![put, AssignmentChange::MayStop(id)];
    let complete = Assignments { is_complete: true, applies_to: 0, results_in: 1, changes };
    agent.handle(at(21), Event::Assignments { term: 1, assignments: Box::new(complete) });
    assert_eq!(steps(&mut agent), [Action::Drain { task: id, limit: STOP_GRACE }]);
}

#[test]
fn every_link_reaches_the_network_and_the_newest_of_this_session_is_reported() {
    let session = SessionId::from_random([1; 16]);
    let network = NetworkId::from_random([5; 16]);
    let gone = || AssignmentChange::Overlay(OverlayChange::RemoveNetwork(network));
    let mut agent = Agent::new(Vec::new(), false, at(0));
    agent.handle(at(0), info(1));
    agent.handle(at(0), complete(Vec::new()));
    agent.handle(at(0), link(2, vec![gone()]));
    let told: Vec<_> = agent.take_actions();
    let changes = vec![OverlayChange::RemoveNetwork(network)];
    let expected = [
        Action::Network { chain: 1, version: 1, is_complete: true, changes: Vec::new() },
        Action::Network { chain: 1, version: 2, is_complete: false, changes },
    ];
    assert_eq!(told, expected);
    let mut programmed = |chain, version| {
        agent.handle(at(1), Event::NetworkProgrammed { chain, version });
        agent.take_actions()
    };
    assert_eq!(programmed(1, 2), [Action::ReportProgrammed { session, version: 2 }]);
    for (chain, version) in [(1, 1), (1, 2), (1, 3), (2, 3), (0, 3)] {
        assert_eq!(programmed(chain, version), [], "chain {chain} link {version}");
    }
    agent.handle(at(2), Event::SessionDown);
    agent.handle(at(2), info(1));
    agent.handle(at(2), complete(Vec::new()));
    agent.take_actions();
    // A late word of the old chain says nothing of the new one.
    agent.handle(at(3), Event::NetworkProgrammed { chain: 1, version: 1 });
    assert_eq!(agent.take_actions(), []);
    agent.handle(at(3), Event::NetworkProgrammed { chain: 2, version: 1 });
    assert_eq!(agent.take_actions(), [Action::ReportProgrammed { session, version: 1 }]);
}

#[test]
fn after_a_reboot_a_task_on_networks_waits_until_they_are_told() {
    let task = networked(1, TaskState::Running, Publication::Unpublished);
    let mut agent = Agent::new(Vec::new(), false, at(0));
    let id = task.id;
    let early = offline(task.clone());
    let mut rebooted = Agent::new(vec![recorded(&early, TaskState::Preparing)], false, at(0));
    rebooted.handle(at(0), Event::Found { task: id, found: Found::Nothing });
    assert!(rebooted.tasks[&id].status.error.contains("its networks"));
    // What was told before the restart will do.
    let mut knowing = Agent::new(vec![recorded(&early, TaskState::Preparing)], true, at(0));
    knowing.handle(at(0), Event::Found { task: id, found: Found::Nothing });
    assert!(knowing.take_actions().iter().any(is_prepare));
    rebooted.handle(at(1), info(1));
    for agent in [&mut agent, &mut rebooted] {
        agent.handle(at(1), info(1));
        agent.handle(at(1), complete(vec![task.clone()]));
        let actions = agent.take_actions();
        let network = actions.iter().position(|action| matches!(action, Action::Network { .. }));
        let prepare = actions.iter().position(|action| matches!(action, Action::Prepare { .. }));
        assert!(network.is_some() && network < prepare, "{actions:?}");
    }
}
