//! `skep events`: changes of the cluster as they happen, as docker tells them.
//!
//! The managers choose by time and filters, and every change carries the time of its
//! transaction. What they have forgotten of the time asked for is said, and what
//! they do know follows.

use crate::client::{self, CALL_MAX, Client, WATCH_SILENCE_MAX};
use crate::failure::Failure;
use crate::flags::{filter, time};
use crate::render::{ago, output, shape};
use serde_json::Value;
use skep_docker::{Action, Event};
use skep_model::object::Object;
use skep_model::{Kind, Time};
use skep_proto::request::{Query, Watch, WatchFrom};
use skep_proto::v1::{Change, ChangeAction, WatchEvent};
use skep_template::Format;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tonic::Status;

/// What is told of.
const KINDS: [Kind; 5] = [Kind::Service, Kind::Node, Kind::Secret, Kind::Config, Kind::Network];
/// Between the loss of a watch and the next try.
const PAUSE: Duration = Duration::from_millis(200);

/// Get real time events from the managers
#[derive(Debug, clap::Args)]
pub struct Events {
    /// Filter output based on conditions provided
    #[arg(long, short, value_parser = filter::parse, value_name = "KEY=VALUE")]
    filter: Vec<(String, String)>,
    /// json, or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Show all events created since timestamp
    #[arg(long)]
    since: Option<String>,
    /// Stream events until this timestamp
    #[arg(long)]
    until: Option<String>,
}

impl Events {
    /// Prints events until Ctrl-C or `--until`.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        for (key, _) in &self.filter {
            skep_model::filter::check_event(key).map_err(|refusal| Failure::usage(refusal.to_string()))?;
        }
        let now = time::now();
        let moment =
            |text: &Option<String>| text.as_deref().map(|text| time::parse(text, now)).transpose().map_err(Failure::usage);
        let (since, until) = (moment(&self.since)?, moment(&self.until)?);
        let printer = Printer { format: Format::parse(self.format.as_deref().unwrap_or(""))? };
        let from = since.map_or(WatchFrom::Now, WatchFrom::Since);
        let watch = Watch { from, until, kinds: KINDS.to_vec(), filters: self.filter };
        tokio::select! {
            result = follow(client, &printer, watch) => result,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    }
}

/// Watches, and goes on by version when the stream drops.
async fn follow(client: &Client, printer: &Printer, mut watch: Watch) -> Result<(), Failure> {
    // The version that was seen last, and its time.
    let mut seen = None;
    loop {
        let ended = match client.watch(&watch).await {
            Err(status) => status,
            Ok(mut stream) => loop {
                // The managers end the stream; this only keeps the wait from having no end.
                let left = remaining(watch.until);
                let Ok(next) = timeout(left.min(WATCH_SILENCE_MAX), stream.message()).await else {
                    if left <= WATCH_SILENCE_MAX {
                        return Ok(());
                    }
                    break Status::unavailable("the managers are silent");
                };
                match next {
                    Ok(Some(event)) if event.resync => {
                        // By time, with what the managers do know; from now on if nothing was seen.
                        watch.from = seen.map_or(WatchFrom::Now, |(_, time)| WatchFrom::Since(time));
                        break Status::unavailable("the managers have forgotten where this was");
                    }
                    Ok(Some(event)) if event.version == 0 => warn(event.incomplete),
                    Ok(Some(event)) => {
                        let is_whole = !event.more;
                        let (version, time) = (event.version, Time(event.time));
                        // What follows a time may have been seen before.
                        let is_new = seen.is_none_or(|(newest, _)| version > newest);
                        if is_new {
                            printer.print(event)?;
                        }
                        if is_whole {
                            watch.from = WatchFrom::After(version);
                        }
                        if is_whole && is_new {
                            // A watch that resumed may not know the time yet.
                            let known = seen.map_or(Time::ZERO, |(_, time): (u64, Time)| time);
                            seen = Some((version, if time == Time::ZERO { known } else { time }));
                        }
                    }
                    Ok(None) if watch.until.is_some_and(|until| until <= time::now()) => return Ok(()),
                    Ok(None) => break Status::unavailable("the stream ended"),
                    Err(status) => break status,
                }
            },
        };
        if !client::is_repeatable(&ended) {
            return Err(ended.into());
        }
        // A read repeats until its own deadline, and ends this with a clear failure.
        client.read(&Query::ClusterInfo).await?;
        sleep(PAUSE).await;
    }
}

/// Until a stream that has an end must have ended.
fn remaining(until: Option<Time>) -> Duration {
    until.map_or(Duration::MAX, |until| until.since(time::now()) + CALL_MAX)
}

fn warn(is_incomplete: bool) {
    if is_incomplete {
        eprintln!("skep: warning: the managers no longer know all of these events; those that they know follow");
    }
}

struct Printer {
    format: Format,
}

impl Printer {
    fn print(&self, event: WatchEvent) -> Result<(), Failure> {
        for change in event.changes {
            let Some(told) = event_of(change, Time(event.time))? else { continue };
            match &self.format {
                Format::Json => output::line(serde_json::to_string(&told).map_err(unprintable)?)?,
                Format::Template(template) => output::line(template.render_shaped(&json(&told)?, shape::EVENT)?)?,
                _ => output::line(line(&told))?,
            }
        }
        Ok(())
    }
}

/// The event of a change that the managers tell of; `None` for what docker does not tell of.
fn event_of(change: Change, time: Time) -> Result<Option<Event>, Failure> {
    let action = match change.action() {
        ChangeAction::Create => Action::Create,
        ChangeAction::Remove => Action::Remove,
        _ => Action::Update,
    };
    let Some(object) = change.object else { return Ok(None) };
    let old = change.old.map(Object::try_from).transpose()?;
    Ok(Event::of(action, &Object::try_from(object)?, old.as_ref(), time))
}

fn line(event: &Event) -> String {
    let attributes: Vec<String> = event.actor.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let (kind, action, id) = (event.kind, event.action.name(), event.actor.id);
    format!("{} {kind} {action} {id} ({})", ago::exact_stamp(event.time), attributes.join(", "))
}

fn json(event: &Event) -> Result<Value, Failure> {
    serde_json::to_value(event).map_err(unprintable)
}

fn unprintable(error: serde_json::Error) -> Failure {
    Failure::refused(format!("cannot print the event: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;
    use skep_model::service::{Service, ServiceMode};
    use skep_proto::v1;

    const TWENTY: Time = Time(20_000_000_000);

    fn change(action: ChangeAction, new: &Service, old: Option<&Service>) -> Change {
        let wire = |service: &Service| v1::Object::from(&Object::Service(Box::new(service.clone())));
        Change { action: action.into(), object: Some(wire(new)), old: old.map(wire) }
    }

    #[test]
    fn an_update_says_what_differs() {
        let old = sample::service();
        let mut new = old.clone();
        new.spec.value.spec.task_template.container_spec.image = "redis:8@sha256:ab".into();
        new.spec.value.spec.mode = ServiceMode::Replicated { replicas: 5 };
        new.spec.version = 8;
        let event = event_of(change(ChangeAction::Update, &new, Some(&old)), TWENTY).expect("valid").expect("told");
        expect_test::expect![
            "1970-01-01T00:00:20.000000000Z service update 0000000000000000000000001 (image.new=redis:8, image.old=redis:7, name=web, replicas.new=5, replicas.old=3)"
        ]
        .assert_eq(&line(&event));
    }

    #[test]
    fn counts_of_a_deployment_are_no_event() {
        let old = sample::service();
        let mut new = old.clone();
        new.plan.value.deployment.as_mut().expect("the sample has one").running = 2;
        assert_eq!(event_of(change(ChangeAction::Update, &new, Some(&old)), Time(0)), Ok(None));
        let removed = event_of(change(ChangeAction::Remove, &new, None), Time(9)).expect("valid").expect("told");
        assert_eq!((removed.action, removed.time), (Action::Remove, Time(9)));
    }

    #[test]
    fn a_network_has_its_driver_and_its_plan_is_no_event() {
        let wire = |network: &skep_model::network::Network| v1::Object::from(&Object::Network(Box::new(network.clone())));
        let network = sample::network();
        let created = Change { action: ChangeAction::Create.into(), object: Some(wire(&network)), old: None };
        let event = event_of(created, TWENTY).expect("valid").expect("told");
        expect_test::expect![
            "1970-01-01T00:00:20.000000000Z network create 0000000000000000000000006 (name=backend, type=overlay)"
        ]
        .assert_eq(&line(&event));
        let mut old = network.clone();
        old.plan.value = Default::default();
        let settled = Change { action: ChangeAction::Update.into(), object: Some(wire(&network)), old: Some(wire(&old)) };
        assert_eq!(event_of(settled, Time(0)), Ok(None));
    }
}
