//! The verdict of the managers on a deployment, as the command line tells of it: what it
//! means for the exit code, why it is so, and the view while it is waited for. Pure.

use crate::failure::Exit;
use crate::render::progress::{BARS_MAX, Frame, TaskLine, Verify};
use crate::render::text::printable;
use skep_model::deployment::{DeploymentKind, DeploymentState};
use skep_model::endpoint::Publication;
use skep_model::place::PlaceFaults;
use skep_model::service::{Service, ServiceMode};
use skep_model::task::Task;
use skep_model::{NodeId, TaskId, TaskState};
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    Bad(Exit),
    /// Another change took its place.
    Superseded,
}

/// The verdict on a spec version, once the managers have one.
pub(super) fn verdict(service: &Service, spec_version: u64) -> Option<Verdict> {
    let deployment = service.plan.deployment.as_ref()?;
    let is_its_rollback = deployment.kind == DeploymentKind::AutomaticRollback && deployment.spec_version == spec_version + 1;
    if deployment.spec_version < spec_version {
        return None;
    }
    if deployment.spec_version > spec_version && !is_its_rollback {
        return Some(Verdict::Superseded);
    }
    match deployment.state {
        DeploymentState::Progressing => None,
        DeploymentState::Converged | DeploymentState::RolledBack if is_its_rollback => Some(Verdict::Bad(Exit::RolledBack)),
        // The change was without need of a deployment, and the one that stands had rolled back.
        DeploymentState::Converged | DeploymentState::RolledBack => Some(Verdict::Good),
        DeploymentState::Failed | DeploymentState::Paused => Some(Verdict::Bad(Exit::Failed)),
        DeploymentState::DeadlineExceeded => Some(Verdict::Bad(Exit::Deadline)),
    }
}

pub(super) fn explain(service: &Service, names: &BTreeMap<NodeId, String>) -> String {
    let name = &service.spec.spec.annotations.name;
    let Some(deployment) = &service.plan.deployment else { return format!("service {name} has no deployment") };
    let what = match deployment.state {
        DeploymentState::RolledBack | DeploymentState::Converged => "was rolled back",
        DeploymentState::Paused => "is paused",
        DeploymentState::DeadlineExceeded => "did not converge before its deadline",
        DeploymentState::Failed | DeploymentState::Progressing => "failed to converge",
    };
    let mut text = format!("service {name} {what}");
    if !deployment.cause.is_empty() {
        text.push_str(&format!(": {}", deployment.cause));
    }
    for node in &deployment.stragglers {
        text.push_str(&format!("\n  network: {}", straggler(*node, names)));
    }
    for node in &deployment.lost_nodes {
        text.push_str(&format!("\n  lost:  {}", lost(*node, names)));
    }
    let Some(failed) = &deployment.failed_task else { return text };
    let node = failed.node.map(|id| names.get(&id).cloned().unwrap_or_else(|| id.to_string()));
    text.push_str(&format!("\n  task:  {}", failed.task));
    text.push_str(&format!("\n  node:  {}", node.as_deref().unwrap_or("none")));
    if !failed.error.is_empty() {
        text.push_str(&format!("\n  error: {}", failed.error));
    }
    if !failed.log_tail.is_empty() {
        text.push_str("\n  last lines of its log:");
        for line in &failed.log_tail {
            text.push_str(&format!("\n    {}", printable(line)));
        }
    }
    text
}

/// What is shown of a deployment; `stable_for` is how long all wanted tasks have run.
pub(super) fn frame(
    service: &Service,
    spec_version: u64,
    tasks: &BTreeMap<TaskId, Task>,
    names: &BTreeMap<NodeId, String>,
    stable_for: Duration,
) -> Frame {
    let deployment = service.plan.deployment.as_ref();
    let is_rolling_back = deployment
        .is_some_and(|deployment| deployment.kind == DeploymentKind::AutomaticRollback && deployment.spec_version > spec_version);
    let wanted_version = deployment.map_or(spec_version, |deployment| deployment.spec_version);
    let mut newest = BTreeMap::<(u64, Option<NodeId>), &Task>::new();
    for task in tasks.values().filter(|task| task.spec_version == wanted_version || task.is_wanted()) {
        let place = (task.slot, task.plan.node.filter(|_| task.slot == 0));
        let best = newest.entry(place).or_insert(task);
        if (task.spec_version, task.meta.made(), task.id) > (best.spec_version, best.meta.made(), best.id) {
            *best = task;
        }
    }
    let wanted = match service.spec.spec.mode {
        ServiceMode::Replicated { replicas } => replicas,
        ServiceMode::Global {} => deployment.map_or(newest.len() as u64, |deployment| deployment.wanted),
    };
    // A task that did what it was for is there as well as one that runs.
    let running = deployment.map_or(0, |deployment| deployment.running + deployment.completed);
    let mut frame = Frame { overall: format!("overall progress: {running} out of {wanted} tasks"), ..Frame::default() };
    if is_rolling_back {
        frame.overall = format!("overall progress: rolling back update: {running} out of {wanted} tasks");
    }
    if newest.len() <= BARS_MAX {
        let label = |(slot, node): &(u64, Option<NodeId>)| match node {
            Some(node) => names.get(node).cloned().unwrap_or_else(|| node.to_string()).chars().take(20).collect(),
            None => format!("{slot}/{wanted}"),
        };
        let mut places: Vec<_> = newest.iter().map(|(place, task)| (place.0, label(place), *task)).collect();
        // Slots by number, nodes by name.
        places.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let current = |task: &'_ Task| task.spec_version == wanted_version;
        frame.tasks =
            places.iter().map(|(_, label, task)| TaskLine::new(label, Some(*task).filter(|task| current(task)))).collect();
    }
    if running >= wanted && deployment.is_some_and(|deployment| deployment.state == DeploymentState::Progressing) {
        let hidden = newest.values().filter(|task| is_hidden(task)).count();
        let leaving = tasks.values().filter(|task| is_leaving(task)).count();
        if leaving > 0 && hidden == 0 {
            frame.verify = Verify::Words(format!("Waiting until tasks that are not wanted any more have stopped: {leaving}..."));
            return frame;
        }
        frame.verify = match (deployment.map_or(&[][..], |deployment| &deployment.stragglers), hidden) {
            ([], 0) => Verify::Stable(seconds_left(service, stable_for)),
            ([], 1) => Verify::Words("Waiting until 1 task can be reached...".into()),
            ([], hidden) => Verify::Words(format!("Waiting until {hidden} tasks can be reached...")),
            (stragglers, _) => {
                Verify::Words(stragglers.iter().map(|node| straggler(*node, names)).collect::<Vec<_>>().join("; "))
            }
        };
    }
    frame
}

/// What is left of the monitor period, in whole seconds, by this side's clock. The leader
/// may know that it is over earlier, from health checks.
fn seconds_left(service: &Service, stable_for: Duration) -> u64 {
    let spec = &service.spec.spec;
    let is_rollback = service.plan.deployment.as_ref().is_some_and(|deployment| deployment.kind.is_rollback());
    let monitor = if is_rollback { spec.rollback_config.monitor } else { spec.update_config.monitor };
    monitor.saturating_sub(stable_for).as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}

/// Whether a task is to go and has not stopped.
fn is_leaving(task: &Task) -> bool {
    let may_run = (TaskState::Assigned..=TaskState::Running).contains(&task.status.state);
    task.plan.desired == TaskState::Remove && may_run
}

/// Whether a task runs on a network of the cluster and is not to be found there yet.
fn is_hidden(task: &Task) -> bool {
    let is_unpublished = task.plan.endpoint.publication == Publication::Unpublished;
    task.status.state == TaskState::Running && !task.networks.is_empty() && is_unpublished
}

/// Why a node has not programmed the endpoints of these tasks, if it says so.
pub(super) fn reason<'a>(faults: &PlaceFaults, mut tasks: impl Iterator<Item = &'a Task>) -> Option<String> {
    let fault = tasks.find_map(|task| faults.of_task(task).find(|fault| fault.blocks))?;
    Some(format!(" ({}: {})", fault.place, fault.reason))
}

pub(super) fn lost(node: NodeId, names: &BTreeMap<NodeId, String>) -> String {
    let name = names.get(&node).cloned().unwrap_or_else(|| node.to_string());
    format!("node {name} was lost or restarted meanwhile; that is no failure of this version")
}

pub(super) fn straggler(node: NodeId, names: &BTreeMap<NodeId, String>) -> String {
    let name = names.get(&node).cloned().unwrap_or_else(|| node.to_string());
    format!("opened without node {name}: it has not programmed the endpoints in time")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;

    #[test]
    fn every_state_has_its_verdict() {
        use DeploymentKind::*;
        use DeploymentState::*;
        let table = [
            (Create, Progressing, 2, None),
            (Create, Converged, 2, Some(Verdict::Good)),
            (Update, Failed, 2, Some(Verdict::Bad(Exit::Failed))),
            (Update, Paused, 2, Some(Verdict::Bad(Exit::Failed))),
            (Update, DeadlineExceeded, 2, Some(Verdict::Bad(Exit::Deadline))),
            (Rollback, RolledBack, 2, Some(Verdict::Good)),
            (Rollback, Paused, 2, Some(Verdict::Bad(Exit::Failed))),
            // The one before.
            (Update, Converged, 1, None),
            // Its own rollback, and somebody else's change.
            (AutomaticRollback, Progressing, 3, None),
            (AutomaticRollback, RolledBack, 3, Some(Verdict::Bad(Exit::RolledBack))),
            (AutomaticRollback, Paused, 3, Some(Verdict::Bad(Exit::Failed))),
            (Update, Progressing, 3, Some(Verdict::Superseded)),
            (AutomaticRollback, RolledBack, 4, Some(Verdict::Superseded)),
        ];
        for (kind, state, spec_version, expected) in table {
            let mut service = sample::service();
            let deployment = service.plan.value.deployment.as_mut().expect("the sample has one");
            (deployment.kind, deployment.state, deployment.spec_version) = (kind, state, spec_version);
            assert_eq!(verdict(&service, 2), expected, "{kind:?} {state:?} {spec_version}");
        }
    }

    #[test]
    fn a_failure_names_task_node_error_and_last_lines() {
        let mut service = sample::service();
        let deployment = service.plan.value.deployment.as_mut().expect("the sample has one");
        deployment.state = DeploymentState::Failed;
        deployment.cause = "tasks fail and are not replaced".into();
        deployment.failed_task = Some(sample::failed_task());
        let names = BTreeMap::from([(sample::node().id, "m1".to_owned())]);
        expect_test::expect![[r#"
            service web failed to converge: tasks fail and are not replaced
              task:  0000000000000000000000005
              node:  m1
              error: task: non-zero exit (1)
              last lines of its log:
                cannot open \u{1b}[31mconfig"#]]
        .assert_eq(&explain(&service, &names));
    }

    #[test]
    fn the_view_says_what_keeps_tasks_from_being_reached() {
        let mut service = sample::published_service();
        let deployment = service.plan.value.deployment.as_mut().expect("the sample has one");
        deployment.running = 3;
        let names = BTreeMap::from([(sample::node().id, "m1".to_owned())]);
        let mut task = sample::published_task();
        let verify = |service: &Service, task: &Task| {
            let tasks = BTreeMap::from([(task.id, task.clone())]);
            frame(service, 2, &tasks, &names, Duration::from_millis(1500)).verify
        };
        assert_eq!(verify(&service, &task), Verify::Stable(4));
        task.plan.value.endpoint.publication = Publication::Unpublished;
        assert_eq!(verify(&service, &task), Verify::Words("Waiting until 1 task can be reached...".into()));
        assert_eq!(verify(&service, &Task { networks: Vec::new(), ..task.clone() }), Verify::Stable(4));
        let straggler = "opened without node m1: it has not programmed the endpoints in time";
        service.plan.value.deployment.as_mut().expect("the sample has one").stragglers.push(sample::node().id);
        assert_eq!(verify(&service, &task), Verify::Words(straggler.into()));
        assert!(explain(&service, &names).contains(&format!("\n  network: {straggler}")));
    }

    #[test]
    fn the_view_has_a_bar_for_each_slot() {
        let service = sample::service();
        let tasks = BTreeMap::from([(sample::task().id, sample::task())]);
        let frame = frame(&service, 2, &tasks, &BTreeMap::new(), Duration::ZERO);
        assert_eq!(frame.overall, "overall progress: 1 out of 3 tasks");
        assert_eq!(frame.tasks, [TaskLine::new("1/3", Some(&sample::task()))]);
    }

    #[test]
    fn the_bars_of_a_global_service_are_sorted_by_node() {
        let mut service = sample::service();
        service.spec.value.spec.mode = ServiceMode::Global {};
        let on = |n: u8| Task {
            id: TaskId::from_random([n; 16]),
            slot: 0,
            plan: skep_model::Section {
                version: 1,
                value: skep_model::task::TaskPlan { node: Some(NodeId::from_random([n; 16])), ..sample::task().plan.value },
            },
            ..sample::task()
        };
        let tasks: BTreeMap<TaskId, Task> = (1..=3).map(|n| (on(n).id, on(n))).collect();
        let names = [(1, "m3"), (2, "m1"), (3, "m2")].map(|(n, name)| (NodeId::from_random([n; 16]), name.to_owned())).into();
        let frame = frame(&service, 2, &tasks, &names, Duration::ZERO);
        assert_eq!(frame.tasks, ["m1", "m2", "m3"].map(|label| TaskLine::new(label, Some(&on(1)))));
    }

    #[test]
    fn a_straggler_says_what_keeps_it() {
        use skep_model::place::{Place, PlaceFault};
        let task = sample::published_task();
        let network = task.networks[0].network;
        let faults =
            [PlaceFault::lasting(Place::Task(task.id), "no IPv6"), PlaceFault::blocking(Place::Network(network), "no link")];
        let said = reason(&PlaceFaults::new(faults), [&task].into_iter());
        assert_eq!(said, Some(format!(" (network {network}: no link)")));
        assert_eq!(reason(&PlaceFaults::default(), [&task].into_iter()), None);
    }
}
