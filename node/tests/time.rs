//! Managers that are stopped, and whose wall clocks are wrong, in real time: three real
//! managers and forty workers of a kind that needs no containers. Nobody was gone, so no
//! task may be replaced. `SKEP_FULL=1` stops them for as long as people put a laptop away.

mod common;

use common::worker::{Worker, worker_token};
use common::{Daemon, text, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skep_proto::v1::*;
use std::collections::BTreeSet;
use std::time::Duration;

const WORKERS: usize = 40;
const REPLICAS: u64 = 80;

/// Long enough for every deadline that a stop may have set off to pass: a new leader
/// waits six seconds for nodes.
const DEADLINES: Duration = Duration::from_secs(8);

fn is_full() -> bool {
    std::env::var_os("SKEP_FULL").is_some()
}

/// Stops daemons for so long.
async fn stop(daemons: &[&Daemon], length: Duration) {
    let send = |signal| {
        daemons.iter().for_each(|daemon| kill(Pid::from_raw(daemon.pid() as i32), signal).unwrap());
    };
    send(Signal::SIGSTOP);
    tokio::time::sleep(length).await;
    send(Signal::SIGCONT);
}

async fn objects(daemon: &Daemon, kind: Kind) -> Option<Vec<Object>> {
    let query = read_request::Query::List(ListQuery { kind: kind.into(), ..ListQuery::default() });
    let reply = daemon.control().read(ReadRequest { query: Some(query), stale: false }).await.ok()?;
    Some(reply.into_inner().objects)
}

/// The tasks that are wanted: id and state.
async fn tasks(daemon: &Daemon) -> Option<BTreeSet<(String, i32)>> {
    let task = |object: Object| match object.object {
        Some(object::Object::Task(task)) => task,
        other => panic!("not a task: {other:?}"),
    };
    let tasks = objects(daemon, Kind::Task).await?.into_iter().map(task);
    Some(tasks.map(|task| (task.id, task.status.unwrap().value.unwrap().state)).collect())
}

async fn leader(managers: &[Daemon]) -> &Daemon {
    let mut found = 0;
    wait_until("a manager leads", async || {
        for (number, manager) in managers.iter().enumerate() {
            if manager.info().await.is_leader && manager.nodes().await.is_ok() {
                found = number;
                return true;
            }
        }
        false
    })
    .await;
    &managers[found]
}

/// The request that makes the service.
fn service() -> MutateRequest {
    use skep_model::service::{self, ServiceMode};
    let mut template = service::TaskSpec::default();
    template.container_spec.image = "none.invalid/none:1".into();
    let spec = service::ServiceSpec {
        annotations: service::Annotations { name: "web".into(), labels: Default::default() },
        task_template: template,
        mode: ServiceMode::Replicated { replicas: REPLICAS },
        update_config: Default::default(),
        rollback_config: Default::default(),
        deadline: None,
        endpoint_spec: Default::default(),
    };
    let mutation = skep_model::request::Mutation::CreateService { spec: Box::new(spec) };
    skep_proto::request::encode_mutation(skep_model::RequestId([7; 16]), &mutation).expect("a client may ask for it")
}

/// Tasks are as they were, and every worker is ready, once all deadlines have passed.
async fn check(what: &str, managers: &[Daemon], workers: &[Worker], before: &BTreeSet<(String, i32)>) {
    let until = std::time::Instant::now() + DEADLINES;
    let mut down = BTreeSet::new();
    let mut look = tokio::time::interval(Duration::from_millis(200));
    while std::time::Instant::now() < until {
        for node in leader(managers).await.nodes().await.unwrap_or_default() {
            let status = node.status.unwrap().value.unwrap();
            if status.state() == NodeState::Down && workers.iter().any(|worker| worker.id == node.id) {
                down.insert(node.id);
            }
        }
        look.tick().await;
    }
    assert!(down.is_empty(), "{what}: {} of {} workers counted as down", down.len(), workers.len());
    let after = tasks(leader(managers).await).await.unwrap();
    let replaced = before.difference(&after).count();
    assert!(replaced == 0 && after.len() == before.len(), "{what}: {replaced} tasks were replaced, there are {}", after.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_task_is_replaced_because_managers_stood_still_or_their_clocks_are_wrong() {
    let seconds = |full: u64, short: u64| Duration::from_secs(if is_full() { full } else { short });
    let mut managers = vec![Daemon::new(), Daemon::new(), Daemon::new()];
    let founded = managers[0].init(InitRequest::default()).await.unwrap();
    let manager_token = text(founded.manager_token.clone());
    let remote = managers[0].address.clone();
    for manager in &managers[1..] {
        manager.join(&remote, &manager_token).await.unwrap();
    }
    // Tasks are the workers' alone: a daemon that is stopped is its own node, too.
    for node in managers[0].nodes().await.unwrap() {
        let spec = NodeSpec { availability: Availability::Drain.into(), ..node.spec.unwrap().value.unwrap() };
        let update = UpdateNode { reference: node.id, expect: None, spec: Some(spec) };
        managers[0].mutate(mutate_request::Mutation::UpdateNode(update)).await.unwrap();
    }
    let token = worker_token(founded);
    let mut workers = Vec::new();
    for number in 0..WORKERS {
        workers.push(Worker::join(&remote, &token, &format!("w{number}")).await);
    }
    managers[0].control().mutate(service()).await.unwrap();
    let mut before = BTreeSet::new();
    wait_until("all tasks run", async || {
        before = tasks(&managers[0]).await.unwrap_or_default();
        before.len() as u64 == REPLICAS && before.iter().all(|(_, state)| *state == i32::from(TaskState::Running))
    })
    .await;

    stop(&[leader(&managers).await], Duration::from_secs(5)).await;
    check("the leader was stopped for 5 s", &managers, &workers, &before).await;
    let led = leader(&managers).await.address.clone();
    let follower = managers.iter().find(|manager| manager.address != led).unwrap();
    stop(&[follower], seconds(10, 4)).await;
    check("a manager was stopped", &managers, &workers, &before).await;
    stop(&managers.iter().collect::<Vec<_>>(), seconds(60, 8)).await;
    check("all managers were stopped", &managers, &workers, &before).await;
    for hours in [1_i64, -1] {
        let led = leader(&managers).await.address.clone();
        let offset = format!("--clock-offset-ms={}", hours * 3_600_000);
        managers.iter_mut().find(|manager| manager.address == led).unwrap().restart_after_kill(&[&offset]);
        // The one whose clock is wrong is to lead: the others are stopped until it does.
        wait_until("the manager with the wrong clock leads", async || {
            let own = managers.iter().find(|manager| manager.address == led).unwrap();
            if own.info().await.is_leader {
                return true;
            }
            let leads = leader(&managers).await;
            stop(&[leads], Duration::from_millis(1_500)).await;
            own.info().await.is_leader
        })
        .await;
        check(&format!("the leader's wall clock is {hours} h off"), &managers, &workers, &before).await;
    }
}
