//! Waits for the verdict on a deployment and turns it into an exit code.
//!
//! Nothing is decided here: the leader stores the verdict in the service, and this
//! only watches it, from the store version of the change on. When the stream
//! drops, the service is read again and watched from there. Ctrl-C detaches, which is
//! a success, as in Swarm; what was asked for goes on. It is heard from before the
//! change is asked for, so that there is no moment at which it ends the program without
//! a word. Until the change is decided, Ctrl-C is no success: the outcome is unknown.

use crate::client::Client;
use crate::command::node;
use crate::command::task::ps::tasks;
use crate::failure::{Exit, Failure};
use crate::flags::duration;
use crate::render::progress::{BARS_MAX, Frame, Progress, TaskLine, Verify};
use crate::render::text::printable;
use skep_model::container::ContainerSpec;
use skep_model::deployment::{Deployment, DeploymentKind, DeploymentState};
use skep_model::endpoint::Publication;
use skep_model::place::PlaceFaults;
use skep_model::request::{Mutation, Outcome};
use skep_model::service::{Service, ServiceMode, UpdateConfig};
use skep_model::task::Task;
use skep_model::{Kind, NodeId, Object, TaskId, TaskState};
use skep_proto::request::{Query, Watch, WatchFrom};
use skep_proto::v1::{ChangeAction, WatchEvent};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout_at};

/// The deadline of a deployment that names none.
const DEADLINE: Duration = Duration::from_secs(600);
/// How much later than the leader this gives up; then the leader is not there.
const GRACE: Duration = Duration::from_secs(60);
/// The longest silence that is waited out, whatever a spec says.
const SILENCE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Between the loss of a watch and the next try.
const PAUSE: Duration = Duration::from_millis(200);

/// How to wait.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Do not wait.
    pub detach: bool,
    /// Show nothing.
    pub quiet: bool,
    /// Give up when no task advances for this long, instead of what the deployment says.
    pub timeout: Option<Duration>,
}

/// A change and the wait for its verdict.
pub struct Wait<'a> {
    client: &'a Client,
    options: Options,
    /// Ctrl-C; none if nothing is waited for.
    interrupt: Option<Signal>,
}

impl<'a> Wait<'a> {
    /// To be made before the change is asked for: from then on Ctrl-C detaches.
    pub fn new(client: &'a Client, options: Options) -> Result<Self, Failure> {
        let hear = || signal(SignalKind::interrupt());
        let interrupt = (!options.detach).then(hear).transpose();
        let interrupt = interrupt.map_err(|error| Failure::refused(format!("cannot hear of Ctrl-C: {error}")))?;
        Ok(Self { client, options, interrupt })
    }

    /// Asks for a change.
    pub async fn change(&mut self, mutation: &Mutation) -> Result<Outcome, Failure> {
        tokio::select! {
            // An answer that is there counts: what Ctrl-C says of it is then certain.
            biased;
            result = self.client.mutate(mutation) => result,
            () = interrupted(&mut self.interrupt) => {
                eprintln!("\nThe change has been asked for, and may be carried out.\nUse `skep service ls` to check.");
                Err(Failure::told(Exit::Interrupted))
            }
        }
    }

    /// Waits for the deployment that a change began. Ctrl-C ends the wait with
    /// [`Exit::Detached`].
    pub async fn verdict(&mut self, outcome: &Outcome) -> Result<(), Failure> {
        if self.options.detach {
            return Ok(());
        }
        let id = outcome.id.to_string();
        let mut waiting = Waiting {
            client: self.client,
            id: id.clone(),
            called: id,
            spec_version: outcome.number,
            progress: Progress::new(self.options.quiet),
            tasks: BTreeMap::new(),
            names: BTreeMap::new(),
            last_news: Instant::now(),
            latest: None,
            stable_since: None,
            timeout: self.options.timeout,
        };
        tokio::select! {
            result = waiting.run() => result,
            () = interrupted(&mut self.interrupt) => {
                let called = &waiting.called;
                eprintln!("\nOperation continuing in background.\nUse `skep service ps {called}` to check progress.");
                Err(Failure::told(Exit::Detached))
            }
        }
    }
}

async fn interrupted(interrupt: &mut Option<Signal>) {
    match interrupt {
        Some(interrupt) => drop(interrupt.recv().await),
        None => std::future::pending().await,
    }
}

/// What people call a service in a command: its name, or its id if that is shorter.
fn called(service: &Service) -> &str {
    let (name, id) = (service.spec.spec.annotations.name.as_str(), service.id.as_str());
    if name.len() <= id.len() { name } else { id }
}

/// The next whole second after `since`; never, if nothing is counted.
async fn next_second(since: Option<Instant>) {
    match since {
        Some(since) => sleep_until(since + Duration::from_secs(since.elapsed().as_secs() + 1)).await,
        None => std::future::pending().await,
    }
}

struct Waiting<'a> {
    client: &'a Client,
    id: String,
    /// The service in what is told; its id until it has been read.
    called: String,
    spec_version: u64,
    progress: Progress,
    tasks: BTreeMap<TaskId, Task>,
    names: BTreeMap<NodeId, String>,
    /// When the deployment last changed, by this side's clock.
    last_news: Instant,
    latest: Option<Deployment>,
    /// Since when this side has seen all wanted tasks run.
    stable_since: Option<Instant>,
    /// See [`Options::timeout`].
    timeout: Option<Duration>,
}

impl Waiting<'_> {
    async fn run(&mut self) -> Result<(), Failure> {
        loop {
            let (service, version) = self.read().await?;
            if let Some(verdict) = self.look(&service).await? {
                return verdict;
            }
            let end = self.end(&service);
            if let Some(verdict) = self.watch(service, version).await? {
                return verdict;
            }
            if Instant::now() >= end {
                return Err(self.no_verdict());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn read(&mut self) -> Result<(Service, u64), Failure> {
        let read = super::get(self.client, &self.id).await;
        let (service, version) = read.map_err(|failure| match failure.exit {
            Exit::Refused => Failure { exit: Exit::Failed, text: format!("the service is gone: {}", failure.text) },
            _ => failure,
        })?;
        let objects = self.client.list(&Query::TasksOfService(self.id.clone(), Vec::new())).await?;
        self.tasks = tasks(objects).into_iter().map(|task| (task.id, task)).collect();
        if matches!(service.spec.spec.mode, ServiceMode::Global {}) && self.names.is_empty() {
            self.names = node::names(self.client).await?;
        }
        Ok((service, version))
    }

    /// Follows changes until there is a verdict; `None` when the stream ended or
    /// everything must be read again.
    async fn watch(&mut self, mut service: Service, version: u64) -> Result<Option<Result<(), Failure>>, Failure> {
        let watch =
            Watch { from: WatchFrom::After(version), until: None, kinds: vec![Kind::Service, Kind::Task], filters: Vec::new() };
        let Ok(mut stream) = self.client.watch(&watch).await else { return Ok(None) };
        loop {
            let counting = self.stable_since.filter(|_| self.progress.is_live());
            let next = tokio::select! {
                next = timeout_at(self.end(&service), stream.message()) => next,
                () = next_second(counting) => {
                    self.progress.show(self.frame(&service))?;
                    continue;
                }
            };
            let event = match next {
                Ok(Ok(Some(event))) if !event.resync => event,
                Ok(_) => return Ok(None),
                Err(_) => return Ok(Some(Err(self.no_verdict()))),
            };
            match self.take(event, &mut service)? {
                Taken::Nothing => {}
                Taken::News => {
                    if let Some(verdict) = self.look(&service).await? {
                        return Ok(Some(verdict));
                    }
                }
                Taken::Removed => {
                    let text = format!("service {} was removed", service.spec.spec.annotations.name);
                    return Ok(Some(Err(Failure { exit: Exit::Failed, text })));
                }
            }
        }
    }

    /// When this side gives up: after the timeout that it was given, or when the leader
    /// should long have given its verdict.
    fn end(&self, service: &Service) -> Instant {
        let waits = [service.spec.spec.deadline.unwrap_or(DEADLINE), planned(service), GRACE];
        let patience = waits.into_iter().fold(Duration::ZERO, Duration::saturating_add);
        let silence = self.timeout.unwrap_or(patience);
        self.last_news.checked_add(silence.min(SILENCE_MAX)).unwrap_or(self.last_news)
    }

    fn no_verdict(&self) -> Failure {
        let called = &self.called;
        let text = match self.timeout {
            Some(timeout) => format!(
                "no task of service {called} advanced for {}; the deployment goes on, `skep service ps {called}` shows it",
                duration::print(timeout)
            ),
            None => {
                format!("the managers gave no verdict on service {called} in time; `skep service ps {called}` shows its tasks")
            }
        };
        Failure { exit: Exit::Deadline, text }
    }

    fn take(&mut self, event: WatchEvent, service: &mut Service) -> Result<Taken, Failure> {
        let mut taken = Taken::Nothing;
        for change in event.changes {
            let is_removal = change.action() == ChangeAction::Remove;
            let Some(object) = change.object.map(Object::try_from).transpose()? else { continue };
            match object {
                Object::Service(changed) if changed.id == service.id && is_removal => return Ok(Taken::Removed),
                Object::Service(changed) if changed.id == service.id => *service = *changed,
                Object::Task(task) if task.service_id == service.id && is_removal => drop(self.tasks.remove(&task.id)),
                Object::Task(task) if task.service_id == service.id => drop(self.tasks.insert(task.id, *task)),
                _ => continue,
            }
            taken = Taken::News;
        }
        Ok(taken)
    }

    /// Shows how things stand; the verdict, if there is one.
    async fn look(&mut self, service: &Service) -> Result<Option<Result<(), Failure>>, Failure> {
        let deployment = service.plan.deployment.clone();
        if deployment != self.latest {
            self.last_news = Instant::now();
            self.latest = deployment;
        }
        let names_nodes = |deployment: &Deployment| !(deployment.stragglers.is_empty() && deployment.lost_nodes.is_empty());
        if self.latest.as_ref().is_some_and(names_nodes) && self.names.is_empty() {
            self.names = node::names(self.client).await?;
        }
        self.called = called(service).to_owned();
        let verdict = verdict(service, self.spec_version);
        let is_stable = self
            .latest
            .as_ref()
            .is_some_and(|it| it.state == DeploymentState::Progressing && it.running + it.completed >= it.wanted);
        self.stable_since = if is_stable { self.stable_since.or_else(|| Some(Instant::now())) } else { None };
        let mut frame = self.frame(service);
        if let Some(Verdict::Good) = &verdict {
            frame.verify = Verify::Words(format!("Service {} converged", self.called));
        }
        self.progress.show(frame)?;
        Ok(match verdict {
            None => None,
            Some(Verdict::Good) => {
                self.warn_of_stragglers(service).await;
                warn_of_losses(service, &self.names);
                Some(Ok(()))
            }
            Some(Verdict::Bad(exit)) => Some(Err(self.bad(service, exit).await)),
            Some(Verdict::Superseded) => {
                let name = &service.spec.spec.annotations.name;
                let text = format!("service {name} was changed again before this deployment had a verdict");
                Some(Err(Failure { exit: Exit::Failed, text }))
            }
        })
    }

    /// A service converges without a node that does not say what it has programmed,
    /// but not without a word, and with the node's reason where it gave one.
    async fn warn_of_stragglers(&self, service: &Service) {
        let stragglers: Vec<NodeId> =
            service.plan.deployment.iter().flat_map(|deployment| &deployment.stragglers).copied().collect();
        if stragglers.is_empty() {
            return;
        }
        // The warning is given without reasons, too.
        let nodes = node::all(self.client).await.unwrap_or_default();
        for id in stragglers {
            let node = nodes.iter().find(|node| node.id == id);
            let reason = node.and_then(|node| reason(&node.status.faults, self.tasks.values()));
            eprintln!("skep: warning: {}{}", straggler(id, &self.names), reason.unwrap_or_default());
        }
    }

    fn frame(&self, service: &Service) -> Frame {
        let stable_for = self.stable_since.map_or(Duration::ZERO, |since| since.elapsed());
        frame(service, self.spec_version, &self.tasks, &self.names, stable_for)
    }

    /// The failure in full: cause, task, node, error and last lines.
    async fn bad(&self, service: &Service, exit: Exit) -> Failure {
        // A name is nicer than an id, but the failure is told without it, too.
        let names = node::names(self.client).await.unwrap_or_default();
        Failure { exit, text: explain(service, &names) }
    }
}

/// Why a node has not programmed the endpoints of these tasks, if it says so.
fn reason<'a>(faults: &PlaceFaults, mut tasks: impl Iterator<Item = &'a Task>) -> Option<String> {
    let fault = tasks.find_map(|task| faults.of_task(task).find(|fault| fault.blocks))?;
    Some(format!(" ({}: {})", fault.place, fault.reason))
}

/// How long nothing may happen because the spec says so: between steps, while tasks are
/// watched, and until an old task has stopped.
fn planned(service: &Service) -> Duration {
    let spec = &service.spec.spec;
    let step = |config: &UpdateConfig| config.delay.max(config.monitor);
    let container = &spec.task_template.container_spec;
    let previous = service.spec.previous.as_ref().map(|previous| &previous.task_template.container_spec);
    let stop = |container: &ContainerSpec| container.stop_grace().saturating_add(container.drain_limit());
    let stop = previous.map_or(Duration::ZERO, stop).max(stop(container));
    step(&spec.update_config).max(step(&spec.rollback_config)).saturating_add(stop)
}

/// An update goes on without a node that is lost, but not without a word.
fn warn_of_losses(service: &Service, names: &BTreeMap<NodeId, String>) {
    for node in service.plan.deployment.iter().flat_map(|deployment| &deployment.lost_nodes) {
        eprintln!("skep: warning: {}", lost(*node, names));
    }
}

fn lost(node: NodeId, names: &BTreeMap<NodeId, String>) -> String {
    let name = names.get(&node).cloned().unwrap_or_else(|| node.to_string());
    format!("node {name} was lost or restarted meanwhile; that is no failure of this version")
}

fn straggler(node: NodeId, names: &BTreeMap<NodeId, String>) -> String {
    let name = names.get(&node).cloned().unwrap_or_else(|| node.to_string());
    format!("opened without node {name}: it has not programmed the endpoints in time")
}

enum Taken {
    Nothing,
    News,
    Removed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    Bad(Exit),
    /// Another change took its place.
    Superseded,
}

/// The verdict on a spec version, once the managers have one.
fn verdict(service: &Service, spec_version: u64) -> Option<Verdict> {
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

fn explain(service: &Service, names: &BTreeMap<NodeId, String>) -> String {
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
fn frame(
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
    fn a_service_is_called_by_its_name_unless_that_is_long() {
        let mut service = sample::service();
        assert_eq!(called(&service), "web");
        service.spec.value.spec.annotations.name = "a-service-with-a-name-longer-than-an-id".into();
        assert_eq!(called(&service), service.id.as_str());
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
