//! What nodes acknowledge, and when a publication has passed or a task may stop.

use super::*;

#[test]
fn a_publication_passes_when_every_node_has_programmed_it() {
    let mut world = World::with_two_tasks();
    world.publish(1, Publication::Published);
    assert_eq!((world.nodes[&1].is_published(1, 1), world.nodes[&2].is_published(1, 1)), (Some(true), Some(true)));
    assert_eq!(world.passage(1), Passage::Waiting);
    world.program(1);
    assert_eq!(world.passage(1), Passage::Waiting);
    // An older link says nothing of this one.
    let old = world.nodes[&2].version - 1;
    world.dispatcher.programmed(&world.store, world.session(2), old);
    assert_eq!(world.passage(1), Passage::Waiting);
    world.dispatcher.programmed(&world.store, world.session(2), old + 1);
    assert_eq!(world.passage(1), Passage::Open);
    assert_eq!(world.pass(), [service_id(1)].into(), "the leader looks at it once");
    assert_eq!(world.pass(), BTreeSet::new());
}

#[test]
fn a_straggler_is_named_when_the_timeout_is_over_until_it_catches_up() {
    let mut world = World::with_two_tasks();
    world.publish(1, Publication::Published);
    world.program(1);
    assert_eq!(world.dispatcher.barrier().next_deadline(), Some(world.now + seconds(5)));
    world.now = world.now + seconds(5);
    assert_eq!(world.pass(), [service_id(1)].into());
    assert_eq!(world.passage(1), Passage::OpenedWithout(vec![node_id(2)]));
    world.program(2);
    assert_eq!(world.passage(1), Passage::Open);
    assert_eq!(world.dispatcher.barrier().next_deadline(), None);
}

#[test]
fn a_task_may_stop_when_every_node_has_withdrawn_it() {
    let mut world = World::with_two_tasks();
    world.publish(1, Publication::Published);
    (1..=2).for_each(|n| world.program(n));
    world.publish(1, Publication::Withdrawn);
    assert_eq!(world.nodes[&2].is_published(1, 1), Some(false));
    world.program(1);
    assert_eq!(world.nodes[&1].may_stop, []);
    world.program(2);
    assert_eq!(world.nodes[&1].may_stop, [task_id(1)]);
    assert_eq!(world.nodes[&2].may_stop, [], "only its own node is told");
    world.create(Object::Task(Box::new(attached(3, 1, &[1]))));
    assert_eq!(world.nodes[&1].may_stop.len(), 1, "once in a session");
    world.open(1);
    assert_eq!(world.nodes[&1].may_stop, [task_id(1)], "and again in the next one");
}

#[test]
fn a_task_may_stop_without_a_node_that_is_late_or_down() {
    for is_down in [false, true] {
        let mut world = World::with_two_tasks();
        world.publish(1, Publication::Published);
        (1..=2).for_each(|n| world.program(n));
        world.publish(1, Publication::Withdrawn);
        world.program(1);
        assert_eq!(world.nodes[&1].may_stop, []);
        if is_down {
            world.set_state(2, NodeState::Down);
        } else {
            world.now = world.now + seconds(5);
        }
        world.pass();
        assert_eq!(world.nodes[&1].may_stop, [task_id(1)]);
        assert_eq!(world.passage(1), if is_down { Passage::Open } else { Passage::OpenedWithout(vec![node_id(2)]) });
    }
}

#[test]
fn who_leaves_the_network_leaves_the_barrier() {
    let mut world = World::with_two_tasks();
    world.publish(1, Publication::Published);
    world.program(1);
    assert_eq!(world.passage(1), Passage::Waiting);
    world.observe(2, TaskState::Failed);
    assert_eq!(world.passage(1), Passage::Open);
    // And who joins it is waited for while it is under way.
    world.publish(1, Publication::Withdrawn);
    world.publish(1, Publication::Published);
    world.create(Object::Task(Box::new(attached(3, 3, &[1]))));
    world.program(1);
    assert_eq!(world.passage(1), Passage::Waiting);
    world.program(3);
    assert_eq!(world.passage(1), Passage::Open);
}

#[test]
fn a_node_that_comes_back_is_waited_for_again() {
    let mut world = World::with_two_tasks();
    world.publish(1, Publication::Published);
    (1..=2).for_each(|n| world.program(n));
    world.set_state(2, NodeState::Down);
    world.publish(1, Publication::Withdrawn);
    world.open(2);
    world.program(1);
    assert_eq!(world.passage(1), Passage::Waiting, "its network is as it was when it went down");
    world.program(2);
    assert_eq!(world.passage(1), Passage::Open);
}

#[test]
fn a_publication_waits_only_for_places_that_it_needs() {
    let fault = |place: Place| PlaceFaults::new([PlaceFault::blocking(place, "it does not work")]);
    let table = [
        (Place::Node, false),
        (Place::Port(Transport::Tcp, 8080), false),
        (Place::Network(network_id(1)), true),
        (Place::Network(network_id(9)), false),
        (Place::Service(service_id(1)), true),
        (Place::Service(service_id(9)), false),
        (Place::Task(task_id(1)), true),
        (Place::Task(task_id(2)), false),
    ];
    for (place, is_held) in table {
        let mut world = World::with_two_tasks();
        world.publish(1, Publication::Published);
        world.program(1);
        world.dispatcher.places_failed(&world.store, world.session(2), fault(place));
        world.program(2);
        let expected = if is_held { Passage::Waiting } else { Passage::Open };
        assert_eq!(world.passage(1), expected, "{place}");
        world.dispatcher.places_failed(&world.store, world.session(2), PlaceFaults::default());
        assert_eq!(world.passage(1), Passage::Open, "{place} works again");
    }
    let mut world = World::with_two_tasks();
    world.publish(1, Publication::Published);
    world.program(1);
    let lasting = PlaceFaults::new([PlaceFault::lasting(Place::Network(network_id(1)), "IPv4 only")]);
    world.dispatcher.places_failed(&world.store, world.session(2), lasting);
    world.program(2);
    assert_eq!(world.passage(1), Passage::Open, "what stays as it is holds nobody");
}

#[test]
fn a_gate_that_a_fault_kept_shut_opens_in_time_and_names_the_node() {
    let mut world = World::with_two_tasks();
    world.publish(1, Publication::Published);
    world.program(1);
    let faults = PlaceFaults::new([PlaceFault::blocking(Place::Network(network_id(1)), "no link has the address")]);
    world.dispatcher.places_failed(&world.store, world.session(2), faults.clone());
    world.program(2);
    // The node's status says why; a session that ended and came back says it again.
    let told = world.dispatcher.transactions(&world.store, world.now);
    let status = told.iter().flat_map(|transaction| &transaction.writes).find_map(|write| match write {
        Write::NodeStatus(id, status) if *id == node_id(2) => Some(status),
        _ => None,
    });
    assert_eq!(status.map(|status| &status.faults), Some(&faults));
    world.now = world.now + seconds(60);
    world.pass();
    assert_eq!(world.passage(1), Passage::OpenedWithout(vec![node_id(2)]));
}

#[test]
fn what_was_told_in_a_session_that_broke_is_told_again() {
    let mut world = World::with_two_tasks();
    world.publish(1, Publication::Published);
    world.program(1);
    let session = world.session(2);
    world.dispatcher.closed(world.now, session, false);
    world.dispatcher.programmed(&world.store, session, 99);
    assert_eq!(world.passage(1), Passage::Waiting, "a session that ended says nothing");
    world.open(2);
    assert_eq!(world.passage(1), Passage::Waiting);
    world.program(2);
    assert_eq!(world.passage(1), Passage::Open);
}

#[test]
fn a_new_leader_has_everything_acknowledged_anew_and_does_not_hang() {
    let mut world = World::with_two_tasks();
    world.publish(1, Publication::Published);
    (1..=2).for_each(|n| world.program(n));
    world.publish(1, Publication::Withdrawn);
    world.now = world.now + seconds(60);
    world.dispatcher = Dispatcher::new(&world.store, world.now, 2);
    (1..=3).for_each(|n| world.open(n));
    assert_eq!((world.passage(1), &world.nodes[&1].may_stop[..]), (Passage::Waiting, &[][..]));
    world.program(1);
    world.now = world.now + seconds(5);
    world.pass();
    assert_eq!(world.passage(1), Passage::OpenedWithout(vec![node_id(2)]));
    assert_eq!(world.nodes[&1].may_stop, [task_id(1)]);
}

#[test]
fn what_was_taken_back_before_it_was_told_is_no_news() {
    let mut world = World::with_two_tasks();
    let version = world.nodes[&2].version;
    let plan = world.store.task(task_id(1)).expect("the task").plan.value.clone();
    for publication in [Publication::Published, Publication::Withdrawn] {
        let endpoint = EndpointState { publication, since: world.now };
        world.apply_silently(Write::TaskPlan(task_id(1), TaskPlan { endpoint, ..plan.clone() }));
    }
    world.tell();
    assert_eq!(world.nodes[&2].version, version, "nothing is told");
    world.program(1);
    world.pass();
    assert_eq!(world.passage(1), Passage::Open, "and nothing waited for");
}
