use super::*;
use crate::event::Exit;
use skep_model::assignment::SessionInfo;
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
    let mut agent = Agent::new(Vec::new(), at(0));
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
    let mut agent = Agent::new(Vec::new(), at(0));
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
    let mut agent = Agent::new(Vec::new(), at(0));
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
    let mut agent = Agent::new(Vec::new(), at(0));
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

#[test]
fn after_a_reboot_a_task_with_files_waits_for_a_manager_and_one_without_runs() {
    use skep_model::container::{FileTarget, SecretReference};
    let plain = task(1, TaskState::Running);
    let mut with_secret = task(2, TaskState::Running);
    let file = FileTarget { name: "key".into(), uid: 0, gid: 0, mode: 0o444 };
    let reference = SecretReference { id: SecretId::from_random([3; 16]), name: "key".into(), version: Some(1), file };
    Arc::make_mut(&mut with_secret.spec).container_spec.secrets.push(reference);
    let waiting = with_secret.id;
    let recovered = [plain, with_secret].map(|task| {
        let mut status = task.status.value.clone();
        status.state = TaskState::Running;
        RecoveredTask { task: Arc::new(task), status, found: Found::Nothing }
    });
    let mut agent = Agent::new(recovered.into(), at(0));
    let prepared: Vec<_> = agent.take_actions().into_iter().filter(|action| matches!(action, Action::Prepare { .. })).collect();
    assert!(matches!(&prepared[..], [Action::Prepare { attempt: 1, .. }]));
    assert!(agent.tasks[&waiting].status.error.contains("waits for a manager"));
    agent.handle(at(1), info(1));
    assert_eq!(state(&agent, waiting), TaskState::Failed);
}

#[test]
fn a_container_whose_start_was_lost_with_the_daemon_is_started_again() {
    let task = task(1, TaskState::Running);
    let mut status = task.status.value.clone();
    status.state = TaskState::Starting;
    let id = task.id;
    let mut agent = Agent::new(vec![RecoveredTask { task: Arc::new(task), status, found: Found::Created }], at(9));
    assert!(agent.take_actions().contains(&Action::Start { task: id }));
}

#[test]
fn a_living_container_is_adopted_as_it_is() {
    let task = task(1, TaskState::Running);
    let mut status = task.status.value.clone();
    status.state = TaskState::Running;
    status.running_since = Some(at(5));
    let id = task.id;
    let found = Found::Running { pid: 7, attempt: 0, healthy: None, has_check: false };
    let mut agent = Agent::new(vec![RecoveredTask { task: Arc::new(task), status, found }], at(9));
    assert!(agent.take_actions().iter().all(|action| matches!(action, Action::Save { .. })));
    assert_eq!((state(&agent, id), agent.tasks[&id].status.running_since), (TaskState::Running, Some(at(5))));
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
    let mut agent = Agent::new(Vec::new(), at(0));
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
        let mut agent = Agent::new(Vec::new(), at(0));
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
    let mut status = task.status.value.clone();
    status.state = TaskState::Running;
    let found = Found::Running { pid: 7, attempt: 0, healthy: None, has_check: false };
    let recovered = RecoveredTask { task: Arc::new(task.clone()), status, found };
    let mut agent = Agent::new(vec![recovered], at(20));
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
    let mut agent = Agent::new(Vec::new(), at(0));
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
    let mut agent = Agent::new(Vec::new(), at(0));
    let id = task.id;
    let mut status = task.status.value.clone();
    status.state = TaskState::Preparing;
    let recovered = RecoveredTask { task: Arc::new(task.clone()), status, found: Found::Nothing };
    let mut rebooted = Agent::new(vec![recovered], at(0));
    assert!(rebooted.tasks[&id].status.error.contains("its networks"));
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
