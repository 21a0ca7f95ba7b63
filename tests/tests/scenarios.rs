//! Golden scenarios: `tests/scenarios/*.txt`, where each file's name is the
//! specification. A line that begins with `> ` is a command, what follows is
//! what it printed; `#` begins a comment. `UPDATE_EXPECT=1` writes them anew.

mod cluster;
mod script;

use cluster::{Behaviour, Cluster, Start};
use proptest::prelude::*;
use script::{add_node, new_spec, run, set_options, update_node};
use skep_manager_core::{Transaction, Write};
use skep_model::deployment::DeploymentState;
use skep_model::request::Mutation;
use skep_model::service::{ServiceMode, ServiceSpec};
use skep_model::task::Task;
use skep_model::{Object, TaskId, TaskState};
use skep_tests::slots::Slots;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn scenarios_give_their_golden_output() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder of scenarios")
        .map(|entry| entry.expect("an entry of the folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    assert!(paths.len() >= 12, "only {} scenarios were found", paths.len());
    for path in paths {
        let script = std::fs::read_to_string(&path).expect("a readable scenario");
        expect_test::expect_file![path].assert_eq(&run(&script));
    }
}

/// One service that cannot be decided about takes nothing down but itself.
#[test]
fn a_panic_over_one_service_sets_it_aside_and_all_others_go_on() {
    let mut cluster = Cluster::new(7);
    add_node(&mut cluster, "n1", &[]);
    let create = |cluster: &mut Cluster, name: &str| {
        let mut spec = new_spec(name);
        spec.update_config.monitor = Duration::from_secs(1);
        cluster.request(Mutation::CreateService { spec: Box::new(spec) }).expect("a valid service");
        cluster.settle();
    };
    let deployment = |cluster: &Cluster, name: &str| {
        let service = cluster.store.resolve_service(name).expect("the service");
        service.plan.deployment.clone().expect("every service has a deployment")
    };
    create(&mut cluster, "before");
    cluster.plant_panic(Some("boom"));
    create(&mut cluster, "boom");
    create(&mut cluster, "web");
    cluster.advance(Duration::from_secs(3));
    for name in ["before", "web"] {
        assert_eq!(deployment(&cluster, name).state, DeploymentState::Converged, "{name}");
    }
    let aside = deployment(&cluster, "boom");
    assert_eq!(aside.state, DeploymentState::Failed);
    assert!(aside.cause.starts_with(skep_model::deployment::SET_ASIDE) && aside.cause.contains("planted"), "{}", aside.cause);
    // What is decided meanwhile about others builds on a memory that is right.
    cluster.request(Mutation::ScaleService { service: "web".into(), replicas: 3 }).expect("a valid scale");
    cluster.settle();
    assert_eq!(cluster.store.tasks().filter(|task| task.service_name == "web" && task.is_active()).count(), 3);
    assert!(cluster.task("boom.1").is_none());
    // A leader without that bug takes it up again.
    cluster.plant_panic(None);
    cluster.settle();
    cluster.advance(Duration::from_secs(3));
    assert_eq!(deployment(&cluster, "boom").state, DeploymentState::Converged);
    assert!(cluster.task("boom.1").is_some());
}

/// The check that every test of this kind relies on can fail.
#[test]
fn a_slot_that_holds_too_much_is_noticed() {
    for order in ["stop-first", "start-first"] {
        let mut cluster = Cluster::new(7);
        add_node(&mut cluster, "n1", &[]);
        let mut spec = new_spec("web");
        set_options(&cluster, &mut spec, &[("order", order)]);
        cluster.request(Mutation::CreateService { spec: Box::new(spec) }).expect("a valid service");
        let (mut store, mut slots) = (cluster.store.clone(), Slots::default());
        let mut plant = |n: u8, slots: &mut Slots| {
            let task = Task { id: TaskId::from_random([n; 16]), ..Task::clone(&cluster.task("web.1").expect("a task")) };
            let plan = store.resolve_service("web").expect("the service").plan.value.clone();
            let mut transaction = Transaction::new(cluster.now + Duration::from_secs(n.into()));
            transaction.writes.push(Write::ServicePlan(task.service_id, plan));
            transaction.writes.push(Write::Create(Object::Task(Box::new(task))));
            let changes = store.apply(store.version + 1, &transaction).expect("nothing refuses it");
            (slots.changed(&store, &changes), slots.at_rest(&store, cluster.dispatcher.barrier()))
        };
        let (changed, at_rest) = plant(1, &mut slots);
        assert_eq!(changed.is_ok(), order == "start-first", "two in a slot, {order}: {changed:?}");
        assert!(at_rest.is_err(), "two that run are one too many");
        assert!(plant(2, &mut slots).0.is_err(), "three in a slot, {order}");
    }
}

/// One random thing that happens to a cluster.
#[derive(Clone, Debug)]
enum Step {
    Scale(u64),
    Image(u64),
    Parallelism(u64),
    Fail(usize),
    Down(usize),
    Up(usize),
    Drain(usize),
    Active(usize),
    NewLeader,
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u64..8).prop_map(Step::Scale),
        (0_u64..3).prop_map(Step::Image),
        (0_u64..3).prop_map(Step::Parallelism),
        (0_usize..8).prop_map(Step::Fail),
        (0_usize..3).prop_map(Step::Down),
        (0_usize..3).prop_map(Step::Up),
        (0_usize..3).prop_map(Step::Drain),
        (0_usize..3).prop_map(Step::Active),
        Just(Step::NewLeader),
        (1_u64..20).prop_map(Step::Advance),
    ]
}

fn take_step(cluster: &mut Cluster, step: &Step) {
    let node = |n: &usize| format!("n{}", n + 1);
    let update = |cluster: &mut Cluster, change: &dyn Fn(&mut ServiceSpec)| {
        let mut spec = cluster.store.resolve_service("web").expect("the service").spec.spec.clone();
        change(&mut spec);
        let mutation = Mutation::UpdateService { service: "web".into(), expect: None, spec: Box::new(spec) };
        cluster.request(mutation).expect("a valid update");
    };
    match step {
        Step::Scale(replicas) => update(cluster, &|spec| spec.mode = ServiceMode::Replicated { replicas: *replicas }),
        Step::Image(n) => update(cluster, &|spec| spec.task_template.container_spec.image = format!("app:{n}")),
        Step::Parallelism(n) => update(cluster, &|spec| spec.update_config.parallelism = *n),
        Step::Fail(n) => {
            let running: Vec<_> =
                cluster.store.tasks().filter(|task| task.status.state == TaskState::Running).map(|task| task.id).collect();
            if let Some(id) = running.get(*n) {
                cluster.report(*id, |status| status.state = TaskState::Failed);
            }
        }
        Step::Down(n) => cluster.silence(&node(n)),
        Step::Up(n) => {
            cluster.open(&node(n));
            cluster.settle();
        }
        Step::Drain(n) => update_node(cluster, "drain", &node(n), &[]).expect("a node of that name"),
        Step::Active(n) => update_node(cluster, "active", &node(n), &[]).expect("a node of that name"),
        Step::NewLeader => cluster.change_leader(),
        Step::Advance(seconds) => cluster.advance(Duration::from_secs(*seconds)),
    }
}

/// Slots whose update is under way: their task of the newest version was made to
/// replace another, and has not run yet.
fn n_updating(cluster: &Cluster) -> usize {
    let service = cluster.store.resolve_service("web").expect("the service");
    let is_step = |task: &&Arc<Task>| {
        task.spec_version == service.spec.spec_version
            && task.is_active()
            && task.plan.replaces.is_some()
            && !task.plan.is_restart
            && task.status.state < TaskState::Running
    };
    cluster.store.tasks_of_service(service.id).filter(is_step).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever happens, the checks of the cluster hold after every transaction
    /// (legal steps, one wanted task for each slot, no over-reservation), and once
    /// all nodes are back the service is what it should be.
    #[test]
    fn a_service_survives_anything(steps in prop::collection::vec(step(), 1..40), seed in 0_u64..1000) {
        let mut cluster = Cluster::new(seed);
        for name in ["n1", "n2", "n3"] {
            add_node(&mut cluster, name, &[("cpu", "4")]);
        }
        let mut spec = new_spec("web");
        set_options(&cluster, &mut spec, &[("replicas", "3"), ("cpu", "1"), ("delay", "1s"), ("on-failure", "continue")]);
        cluster.request(Mutation::CreateService { spec: Box::new(spec) }).expect("a valid service");
        for step in &steps {
            take_step(&mut cluster, step);
        }
        for name in ["n1", "n2", "n3"] {
            cluster.open(name);
            cluster.settle();
            update_node(&mut cluster, "active", name, &[]).expect("a node of that name");
        }
        cluster.advance(Duration::from_secs(200));
        let service = cluster.store.resolve_service("web").expect("the service").clone();
        let ServiceMode::Replicated { replicas } = service.spec.spec.mode else { panic!("it is replicated") };
        let running: Vec<_> = cluster.store.tasks_of_service(service.id).filter(|task| task.is_active()).collect();
        prop_assert_eq!(running.len() as u64, replicas);
        for task in running {
            prop_assert_eq!(task.status.state, TaskState::Running);
            prop_assert_eq!(&task.spec.container_spec.image, &service.spec.spec.task_template.container_spec.image);
        }
        prop_assert_eq!(service.plan.deployment.as_ref().map(|deployment| deployment.state), Some(DeploymentState::Converged));
    }

    /// An update never has more slots under way than its parallelism allows.
    #[test]
    fn parallelism_is_never_exceeded(replicas in 1_u64..9, parallelism in 1_u64..5, delay in 0_u64..4, failing in 0_usize..9) {
        let mut cluster = Cluster::new(replicas);
        add_node(&mut cluster, "n1", &[("cpu", "16")]);
        let mut spec = new_spec("web");
        let (replicas, parallelism, delay) = (replicas.to_string(), parallelism.to_string(), format!("{delay}s"));
        let options = [("replicas", replicas.as_str()), ("parallelism", &parallelism), ("update-delay", &delay), ("delay", "1s"), ("ratio", "1")];
        set_options(&cluster, &mut spec, &options);
        cluster.request(Mutation::CreateService { spec: Box::new(spec.clone()) }).expect("a valid service");
        cluster.behaviours.insert("app:2".into(), Behaviour { start: Start::Hangs, never_stops: false });
        spec.task_template.container_spec.image = "app:2".into();
        cluster.request(Mutation::UpdateService { service: "web".into(), expect: None, spec: Box::new(spec) }).expect("an update");
        let expected = replicas.parse::<usize>().expect("a number").min(parallelism.parse().expect("a number"));
        prop_assert_eq!(n_updating(&cluster), expected);
        // One of the old tasks fails meanwhile: its restart is no step of the update.
        let old: Vec<_> = cluster.store.tasks().filter(|task| task.status.state == TaskState::Running).map(|task| task.id).collect();
        if let Some(id) = old.get(failing) {
            cluster.report(*id, |status| status.state = TaskState::Failed);
        }
        cluster.advance(Duration::from_secs(10));
        prop_assert!(n_updating(&cluster) <= expected);
        cluster.behaviours.clear();
        cluster.advance(Duration::from_secs(120));
        prop_assert_eq!(n_updating(&cluster), 0);
    }
}
