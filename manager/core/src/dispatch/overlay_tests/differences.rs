//! Whatever changes, what a node is told adds up to what it has to know.

use super::*;
use proptest::prelude::*;

/// One random change.
#[derive(Clone, Debug)]
enum Step {
    Task { n: u8, node: u8, networks: Vec<u8> },
    State(u8, TaskState),
    Publish(u8, Publication),
    RemoveTask(u8),
    Service { n: u8, networks: Vec<u8>, has_port: bool },
    RemoveService(u8),
    Network(u8),
    RemoveNetwork(u8),
    Open(u8),
    Tell,
}

fn step() -> impl Strategy<Value = Step> {
    let networks = || prop::sample::subsequence(vec![1, 2, 3], 0..=3);
    let publication = prop::sample::select(vec![Publication::Unpublished, Publication::Published, Publication::Withdrawn]);
    let state = prop::sample::select(vec![TaskState::Assigned, TaskState::Running, TaskState::Failed]);
    prop_oneof![
        4 => (1..8_u8, 1..4_u8, networks()).prop_map(|(n, node, networks)| Step::Task { n, node, networks }),
        2 => (1..8_u8, state).prop_map(|(n, state)| Step::State(n, state)),
        2 => (1..8_u8, publication).prop_map(|(n, publication)| Step::Publish(n, publication)),
        1 => (1..8_u8).prop_map(Step::RemoveTask),
        2 => (1..4_u8, networks(), any::<bool>()).prop_map(|(n, networks, has_port)| Step::Service { n, networks, has_port }),
        1 => (1..4_u8).prop_map(Step::RemoveService),
        2 => (1..4_u8).prop_map(Step::Network),
        1 => (1..4_u8).prop_map(Step::RemoveNetwork),
        1 => (1..4_u8).prop_map(Step::Open),
        3 => Just(Step::Tell),
    ]
}

fn take_step(world: &mut World, step: &Step) {
    let write = match step {
        Step::Task { n, node, networks } if world.store.task(task_id(*n)).is_none() => {
            let task = Task { service_id: service_id(1 + n % 3), ..attached(*n, *node, networks) };
            Write::Create(Object::Task(Box::new(task)))
        }
        Step::State(n, state) if world.store.task(task_id(*n)).is_some() => {
            Write::TaskStatus(task_id(*n), super::tests::status(*state))
        }
        Step::Publish(n, publication) => {
            let Some(task) = world.store.task(task_id(*n)) else { return };
            let endpoint = EndpointState { publication: *publication, since: world.now };
            Write::TaskPlan(task_id(*n), TaskPlan { endpoint, ..task.plan.value.clone() })
        }
        Step::RemoveTask(n) if world.store.task(task_id(*n)).is_some() => {
            Write::Remove(ObjectRef { kind: Kind::Task, id: task_id(*n).0 })
        }
        Step::Service { n, networks, has_port } => {
            let service = service(*n, networks, *has_port);
            match world.store.service(service_id(*n)) {
                None => Write::Create(Object::Service(Box::new(service))),
                Some(_) => {
                    world.apply_silently(Write::ServicePlan(service.id, service.plan.value));
                    Write::ServiceSpec(service.id, Box::new(service.spec.value))
                }
            }
        }
        Step::RemoveService(n) if world.store.service(service_id(*n)).is_some() => {
            Write::Remove(ObjectRef { kind: Kind::Service, id: service_id(*n).0 })
        }
        Step::Network(n) if world.store.network(network_id(*n)).is_none() => {
            Write::Create(Object::Network(Box::new(network(*n, *n == 3))))
        }
        Step::RemoveNetwork(n) if world.store.network(network_id(*n)).is_some() => {
            let object = ObjectRef { kind: Kind::Network, id: network_id(*n).0 };
            // One that is in use stays.
            match world.store.user_of(object) {
                Some(_) => return,
                None => Write::Remove(object),
            }
        }
        Step::Open(n) => return world.open(*n),
        Step::Tell => return world.tell(),
        _ => return,
    };
    world.apply_silently(write);
}

/// What a node has to know, read off the store without any index.
fn expected(store: &Store, node: NodeId) -> BTreeSet<String> {
    let on = |task: &&Arc<Task>, network: NetworkId| {
        is_on_networks(task) && task.networks.iter().any(|attachment| attachment.network == network)
    };
    let has_mesh = store.services().any(|service| !service.plan.endpoint.ports.is_empty());
    let takes_part = |network: &&Arc<Network>| {
        store.tasks_of_node(node).any(|task| on(&task, network.id)) || (network.spec.ingress && has_mesh)
    };
    let networks: BTreeSet<NetworkId> = store.networks().filter(takes_part).map(|network| network.id).collect();
    let mut keys: BTreeSet<String> = networks.iter().map(|id| format!("network {id}")).collect();
    keys.extend(store.nodes().map(|node| format!("peer {}", node.id)));
    for task in store.tasks().filter(|task| is_on_networks(task)) {
        let told = task.networks.iter().filter(|attachment| networks.contains(&attachment.network));
        let is_published = task.plan.endpoint.publication == Publication::Published;
        keys.extend(told.map(|attachment| format!("endpoint {} {} {is_published}", attachment.network, task.id)));
    }
    let has_ingress = store.networks().find(|network| network.spec.ingress).map(|network| network.id);
    for service in store.services() {
        let template = &service.spec.spec.task_template;
        let has_port = !service.plan.endpoint.ports.is_empty();
        let is_on = |network: &&NetworkId| {
            template.networks.iter().any(|request| request.target == network.to_string())
                || store.tasks_of_service(service.id).any(|task| on(&task, **network))
                || (has_port && has_ingress == Some(**network))
        };
        let on: Vec<String> = networks.iter().filter(is_on).map(ToString::to_string).collect();
        if !on.is_empty() {
            keys.insert(format!("service {} {}", service.id, on.join(" ")));
        }
    }
    keys
}

fn known(node: &Node) -> BTreeSet<String> {
    let describe = |(key, change): (&String, &OverlayChange)| match change {
        OverlayChange::PutEndpoint(endpoint) => format!("{key} {}", endpoint.is_published),
        OverlayChange::PutService(NodeService { networks, .. }) => {
            let on: Vec<String> = networks.iter().map(|ServiceNetwork { network, .. }| network.to_string()).collect();
            format!("{key} {}", on.join(" "))
        }
        _ => key.clone(),
    };
    node.overlay.iter().map(describe).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever changes and whenever nodes are told, what they were told sums up to
    /// what there is, and nothing is told twice.
    #[test]
    fn differences_add_up(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            take_step(&mut world, step);
        }
        world.tell();
        for (n, node) in &world.nodes {
            prop_assert_eq!(known(node), expected(&world.store, node_id(*n)), "node {}", n);
        }
        // Once everything is programmed, no gate waits.
        (1..=3).for_each(|n| world.program(n));
        for task in world.store.tasks() {
            prop_assert_eq!(world.dispatcher.barrier().passage(task), Passage::Open);
        }
        prop_assert_eq!(world.dispatcher.barrier().next_deadline(), None);
    }
}
