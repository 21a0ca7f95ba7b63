//! After a restart of the daemon or of its machine: what is adopted, what is run again, and what waits.

use super::*;

/// A daemon that has one task on record and is told what there is of it.
fn recovered(task: &Task, state: TaskState, found: Found) -> Agent {
    let mut agent = Agent::new(vec![recorded(task, state)], false, at(9));
    assert_eq!(agent.take_actions(), [], "nothing is done before it is known what there is");
    agent.handle(at(9), Event::Found { task: task.id, found });
    agent
}

fn with_secret(mut task: Task) -> Task {
    use skep_model::container::{FileTarget, SecretReference};
    let file = FileTarget { name: "key".into(), uid: 0, gid: 0, mode: 0o444 };
    let reference = SecretReference { id: SecretId::from_random([3; 16]), name: "key".into(), version: Some(1), file };
    Arc::make_mut(&mut task.spec).container_spec.secrets.push(reference);
    task
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
