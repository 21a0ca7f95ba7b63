//! `skep events`: changes of the cluster as they happen, as docker tells them.
//!
//! The managers' watch resumes by store version, not by time. For `--since` the
//! newest version that is surely older is found from the objects' own times; when
//! the managers have forgotten some of what follows it, that is said first, and
//! what they do know is shown.

use crate::client::{self, CALL_MAX, Client};
use crate::command::task::ps::without_digest;
use crate::failure::Failure;
use crate::flags::{filter, time};
use crate::render::{ago, json, output, shape};
use prost::Message;
use serde_json::{Value, json};
use skep_model::node::Role;
use skep_model::object::Object;
use skep_model::service::ServiceMode;
use skep_model::{Kind, Refusal, Time};
use skep_proto::request::{Query, Watch};
use skep_proto::v1::{Change, ChangeAction, WatchEvent};
use skep_template::Format;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status};

/// What is told of.
const KINDS: [Kind; 5] = [Kind::Service, Kind::Node, Kind::Secret, Kind::Config, Kind::Network];
const KEYS: [&str; 15] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
    "id",
];
/// How long the past is awaited when `--until` lies in it.
const PAST: Duration = Duration::from_secs(1);
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
        for (key, value) in &self.filter {
            if !KEYS.contains(&key.as_str()) {
                return Err(Failure::usage(format!("invalid filter '{key}={value}': events know {}", KEYS.join(", "))));
            }
        }
        let now = time::now();
        let moment =
            |text: &Option<String>| text.as_deref().map(|text| time::parse(text, now)).transpose().map_err(Failure::usage);
        let (since, until) = (moment(&self.since)?, moment(&self.until)?);
        let printer = Printer { format: Format::parse(self.format.as_deref().unwrap_or(""))?, filter: self.filter, since, until };
        let end = until.map(|until| Instant::now() + until.since(now).max(PAST));
        let after = match since {
            Some(since) => Some(version_before(client, since).await?),
            None => None,
        };
        tokio::select! {
            result = follow(client, &printer, after, end) => result,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    }
}

/// A version that is not newer than `since`: versions rise with time, so
/// everything after `since` comes after every object that has not changed since.
async fn version_before(client: &Client, since: Time) -> Result<u64, Failure> {
    let mut version = 0;
    for kind in skep_model::object::KINDS {
        let objects = client.list(&Query::List(kind, Vec::new())).await?;
        let old = objects.iter().map(Object::meta).filter(|meta| meta.updated_at <= since);
        version = old.map(|meta| meta.version).fold(version, u64::max);
    }
    Ok(version)
}

/// Watches, and goes on by version when the stream drops.
async fn follow(client: &Client, printer: &Printer, mut after: Option<u64>, end: Option<Instant>) -> Result<(), Failure> {
    let far = Instant::now() + Duration::from_secs(100 * 365 * 86_400);
    loop {
        let ended = match client.watch(&watch(after, KINDS.to_vec())).await {
            Err(status) => status,
            Ok(mut stream) => loop {
                match timeout_at(end.unwrap_or(far), stream.message()).await {
                    Err(_) => return Ok(()),
                    Ok(Ok(Some(event))) if event.resync => break forgotten(),
                    Ok(Ok(Some(event))) => {
                        after = Some(event.version);
                        printer.print(event)?;
                    }
                    Ok(Ok(None)) => break Status::unavailable("the stream ended"),
                    Ok(Err(status)) => break status,
                }
            },
        };
        if client::is_resync(&ended) {
            eprintln!("skep: warning: the managers no longer know all of these events; those that they know follow");
            after = oldest_known(client, after.unwrap_or(0)).await?;
        } else if !client::is_repeatable(&ended) {
            return Err(ended.into());
        }
        // A read repeats until its own deadline, and ends this with a clear failure.
        client.read(&Query::ClusterInfo).await?;
        sleep(PAUSE).await;
    }
}

fn watch(after: Option<u64>, kinds: Vec<Kind>) -> Watch {
    Watch { after, kinds, filters: Vec::new() }
}

fn forgotten() -> Status {
    Status::with_details(Code::Aborted, "", skep_proto::v1::Refusal::from(&Refusal::OutOfSequence).encode_to_vec().into())
}

/// The smallest version above `refused` that a watch can go on from; `None` if
/// there is none, so that it begins now. Found by halves: every version below the
/// newest change is answered at once, with changes or a refusal.
async fn oldest_known(client: &Client, refused: u64) -> Result<Option<u64>, Failure> {
    let (mut low, mut high) = (refused, newest_change(client).await?);
    let newest = high;
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        let opened = client.watch(&watch(Some(middle), Vec::new())).await;
        let first = match opened {
            Ok(mut stream) => timeout_at(Instant::now() + CALL_MAX, stream.message()).await.unwrap_or_else(|_| Ok(None)),
            Err(status) => Err(status),
        };
        match first {
            Ok(Some(event)) if !event.resync => high = middle,
            Ok(_) => low = middle,
            Err(status) if client::is_resync(&status) => low = middle,
            Err(status) => return Err(status.into()),
        }
    }
    Ok(Some(high).filter(|high| *high < newest))
}

async fn newest_change(client: &Client) -> Result<u64, Failure> {
    let mut version = 0;
    for kind in skep_model::object::KINDS {
        let objects = client.list(&Query::List(kind, Vec::new())).await?;
        version = objects.iter().map(|object| object.meta().version).fold(version, u64::max);
    }
    Ok(version)
}

struct Printer {
    format: Format,
    filter: Vec<(String, String)>,
    since: Option<Time>,
    until: Option<Time>,
}

impl Printer {
    fn print(&self, event: WatchEvent) -> Result<(), Failure> {
        let now = time::now();
        for change in event.changes {
            let Some(told) = Event::of(change, now)? else { continue };
            let is_early = self.since.is_some_and(|since| told.time < since);
            let is_late = self.until.is_some_and(|until| told.time > until);
            if is_early || is_late || !told.passes(&self.filter) {
                continue;
            }
            match &self.format {
                Format::Json => output::line(told.json().to_string())?,
                Format::Template(template) => output::line(template.render_shaped(&told.json(), shape::EVENT)?)?,
                _ => output::line(told.line())?,
            }
        }
        Ok(())
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Event {
    time: Time,
    kind: Kind,
    action: &'static str,
    id: String,
    attributes: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

impl Event {
    /// `None` for changes that docker does not tell of, such as counts of a deployment.
    fn of(change: Change, now: Time) -> Result<Option<Self>, Failure> {
        let action = change.action();
        let (Some(object), old) = (change.object, change.old) else { return Ok(None) };
        let object = Object::try_from(object)?;
        let old = old.map(Object::try_from).transpose()?;
        let mut attributes = BTreeMap::new();
        if let Some(old) = &old {
            differences(&mut attributes, old, &object);
            if attributes.is_empty() && spec_version(old) == spec_version(&object) {
                return Ok(None);
            }
        }
        attributes.insert("name".to_owned(), object.name());
        if let Object::Network(network) = &object {
            attributes.insert("type".to_owned(), network.spec.driver.clone());
        }
        let action = match action {
            ChangeAction::Create => "create",
            ChangeAction::Remove => "remove",
            _ => "update",
        };
        // A removal leaves no time in the object; it has just been heard of.
        let time = if action == "remove" { now } else { object.meta().updated_at };
        let reference = object.reference();
        Ok(Some(Self { time, kind: reference.kind, action, id: reference.id.to_string(), attributes, labels: labels(&object) }))
    }

    /// Values of one key are alternatives, different keys must all hold.
    fn passes(&self, filters: &[(String, String)]) -> bool {
        let matches = |key: &str, value: &str| match key {
            "type" => self.kind.to_string() == value,
            "event" => self.action == value,
            "scope" => value == "swarm",
            "id" => self.id.starts_with(value),
            "label" => match value.split_once('=') {
                Some((key, value)) => self.labels.get(key).is_some_and(|actual| actual == value),
                None => self.labels.contains_key(value),
            },
            key if self.kind.to_string() == key => {
                self.id.starts_with(value) || self.attributes.get("name").is_some_and(|name| name == value)
            }
            _ => false,
        };
        filters.iter().all(|(key, _)| filters.iter().any(|(other, value)| other == key && matches(key, value)))
    }

    fn line(&self) -> String {
        let attributes: Vec<String> = self.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
        format!("{} {} {} {} ({})", ago::exact_stamp(self.time), self.kind, self.action, self.id, attributes.join(", "))
    }

    fn json(&self) -> Value {
        json!({
            "Type": self.kind.to_string(),
            "Action": self.action,
            "Actor": { "ID": self.id, "Attributes": self.attributes },
            "scope": "swarm",
            "time": self.time.0 / 1_000_000_000,
            "timeNano": self.time.0,
        })
    }
}

fn spec_version(object: &Object) -> u64 {
    match object {
        Object::Cluster(it) => it.spec.version,
        Object::Node(it) => it.spec.version,
        Object::Network(it) => it.spec.version,
        Object::Secret(it) => it.spec.version,
        Object::Config(it) => it.spec.version,
        Object::Service(it) => it.spec.version,
        Object::Task(it) => it.status.version,
    }
}

fn labels(object: &Object) -> BTreeMap<String, String> {
    match object {
        Object::Cluster(it) => it.spec.annotations.labels.clone(),
        Object::Node(it) => it.spec.labels.clone(),
        Object::Network(it) => it.spec.annotations.labels.clone(),
        Object::Secret(it) => it.spec.annotations.labels.clone(),
        Object::Config(it) => it.spec.annotations.labels.clone(),
        Object::Service(it) => it.spec.spec.annotations.labels.clone(),
        Object::Task(_) => BTreeMap::new(),
    }
}

/// `KEY.old` and `KEY.new` of what docker names.
fn differences(attributes: &mut BTreeMap<String, String>, old: &Object, new: &Object) {
    let mut differ = |key: &str, old: String, new: String| {
        if old != new {
            attributes.insert(format!("{key}.old"), old);
            attributes.insert(format!("{key}.new"), new);
        }
    };
    match (old, new) {
        (Object::Service(old), Object::Service(new)) => {
            let image =
                |service: &skep_model::service::Service| without_digest(&service.spec.spec.task_template.container_spec.image);
            differ("image", image(old), image(new));
            let replicas = |service: &skep_model::service::Service| match service.spec.spec.mode {
                ServiceMode::Replicated { replicas } => replicas.to_string(),
                ServiceMode::Global {} => String::new(),
            };
            differ("replicas", replicas(old), replicas(new));
            let state = |service: &skep_model::service::Service| {
                service.plan.deployment.as_ref().and_then(json::update_state).unwrap_or_default().to_owned()
            };
            differ("updatestate", state(old), state(new));
        }
        (Object::Node(old), Object::Node(new)) => {
            let lower = |text: &str| text.to_lowercase();
            let availability = |node: &skep_model::node::Node| lower(super::node::ls::availability(node.spec.availability));
            differ("availability", availability(old), availability(new));
            let role =
                |node: &skep_model::node::Node| if node.plan.role == Role::Manager { "manager" } else { "worker" }.to_owned();
            differ("role", role(old), role(new));
            let state = |node: &skep_model::node::Node| lower(super::node::ls::state(node.status.state));
            differ("state", state(old), state(new));
            let reachability = |node: &skep_model::node::Node| lower(super::node::ls::manager_status(node, ""));
            differ("reachability", reachability(old), reachability(new));
        }
        (Object::Secret(old), Object::Secret(new)) => {
            differ("version", old.spec.current.to_string(), new.spec.current.to_string())
        }
        (Object::Config(old), Object::Config(new)) => {
            differ("version", old.spec.current.to_string(), new.spec.current.to_string())
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;
    use skep_model::service::Service;
    use skep_proto::v1;

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
        let event = Event::of(change(ChangeAction::Update, &new, Some(&old)), Time(0)).expect("valid").expect("told");
        expect_test::expect![
            "1970-01-01T00:00:20.000000000Z service update 0000000000000000000000001 (image.new=redis:8, image.old=redis:7, name=web, replicas.new=5, replicas.old=3)"
        ]
        .assert_eq(&event.line());
        let passes = |filters: &[(&str, &str)]| {
            event.passes(&filters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Vec<_>>())
        };
        assert!(passes(&[]) && passes(&[("service", "web")]) && passes(&[("type", "node"), ("type", "service")]));
        assert!(passes(&[("label", "tier=front"), ("scope", "swarm"), ("event", "update")]));
        assert!(
            !passes(&[("service", "db")])
                && !passes(&[("type", "service"), ("event", "create")])
                && !passes(&[("container", "web")])
        );
    }

    #[test]
    fn counts_of_a_deployment_are_no_event() {
        let old = sample::service();
        let mut new = old.clone();
        new.plan.value.deployment.as_mut().expect("the sample has one").running = 2;
        assert_eq!(Event::of(change(ChangeAction::Update, &new, Some(&old)), Time(0)), Ok(None));
        let removed = Event::of(change(ChangeAction::Remove, &new, None), Time(9)).expect("valid").expect("told");
        assert_eq!((removed.action, removed.time), ("remove", Time(9)));
    }

    #[test]
    fn a_network_has_its_driver_and_its_plan_is_no_event() {
        let wire = |network: &skep_model::network::Network| v1::Object::from(&Object::Network(Box::new(network.clone())));
        let network = sample::network();
        let created = Change { action: ChangeAction::Create.into(), object: Some(wire(&network)), old: None };
        let event = Event::of(created, Time(0)).expect("valid").expect("told");
        expect_test::expect![
            "1970-01-01T00:00:20.000000000Z network create 0000000000000000000000006 (name=backend, type=overlay)"
        ]
        .assert_eq(&event.line());
        let mut old = network.clone();
        old.plan.value = Default::default();
        let settled = Change { action: ChangeAction::Update.into(), object: Some(wire(&network)), old: Some(wire(&old)) };
        assert_eq!(Event::of(settled, Time(0)), Ok(None));
    }
}
