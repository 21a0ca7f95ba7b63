//! Waits for the verdict on a deployment and turns it into an exit code.
//!
//! Nothing is decided here: the leader stores the verdict in the service, and this
//! only watches it, from the store version of the change on. When the stream
//! drops, the service is read again and watched from there. Ctrl-C detaches, which is
//! a success, as in Swarm; what was asked for goes on. It is heard from before the
//! change is asked for, so that there is no moment at which it ends the program without
//! a word. Until the change is decided, Ctrl-C is no success: the outcome is unknown.

use super::verdict::{Verdict, explain, frame, lost, reason, straggler, verdict};
use crate::client::{Client, WATCH_SILENCE_MAX};
use crate::command::node;
use crate::command::task::ps::tasks;
use crate::failure::{Exit, Failure};
use crate::flags::duration;
use crate::render::progress::{Frame, Progress, Verify};
use skep_model::container::ContainerSpec;
use skep_model::deployment::{Deployment, DeploymentState};
use skep_model::request::{Mutation, Outcome};
use skep_model::service::{Service, ServiceMode, UpdateConfig};
use skep_model::task::Task;
use skep_model::{Kind, NodeId, Object, TaskId};
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
        let of_service = vec![("service".to_owned(), self.id.clone())];
        let kinds = vec![Kind::Service, Kind::Task];
        let watch = Watch { from: WatchFrom::After(version), until: None, kinds, filters: of_service };
        let Ok(mut stream) = self.client.watch(&watch).await else { return Ok(None) };
        let mut heard_at = Instant::now();
        loop {
            let counting = self.stable_since.filter(|_| self.progress.is_live());
            let next = tokio::select! {
                next = timeout_at(self.end(&service).min(heard_at + WATCH_SILENCE_MAX), stream.message()) => next,
                () = next_second(counting) => {
                    self.progress.show(self.frame(&service))?;
                    continue;
                }
            };
            heard_at = Instant::now();
            let event = match next {
                Ok(Ok(Some(event))) if !event.resync => event,
                Err(_) if heard_at >= self.end(&service) => return Ok(Some(Err(self.no_verdict()))),
                Ok(_) | Err(_) => return Ok(None),
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

enum Taken {
    Nothing,
    News,
    Removed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;

    #[test]
    fn a_service_is_called_by_its_name_unless_that_is_long() {
        let mut service = sample::service();
        assert_eq!(called(&service), "web");
        service.spec.value.spec.annotations.name = "a-service-with-a-name-longer-than-an-id".into();
        assert_eq!(called(&service), service.id.as_str());
    }
}
