//! Tasks on networks: withdrawn, drained, stopped; and what the network daemon is told.

use super::*;

fn networked(number: u8, desired: TaskState, publication: Publication) -> Task {
    let mut task = task(number, desired);
    let network = NetworkId::from_random([5; 16]);
    task.networks =
        vec![Attachment { network, addresses: vec!["10.0.0.5".parse().unwrap()], aliases: Vec::new(), any_source: false }];
    task.plan.value.endpoint.publication = publication;
    task
}

fn link(version: u64, changes: Vec<AssignmentChange>) -> Event {
    let assignments = Assignments { is_complete: false, applies_to: version - 1, results_in: version, changes };
    Event::Assignments { term: 1, assignments: Box::new(assignments), unreadable: Vec::new() }
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
    agent.handle(at(21), Event::Assignments { term: 1, assignments: Box::new(complete), unreadable: Vec::new() });
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
