//! A watch as it is streamed: changes of the wanted kinds that pass the filters, each
//! with the wall time of its transaction, until the time that was asked for.

use crate::api::{Gone, Shared};
use crate::waiting::WatchItem;
use futures_util::Stream;
use skep_host::clock;
use skep_manager_core::Event;
use skep_manager_core::event::{Consistency, Ticket};
use skep_manager_core::query;
use skep_manager_core::store::watch::Recent;
use skep_manager_core::store::{Change, StoredObject};
use skep_model::filter::{self, has_label};
use skep_model::{Kind, Object, Refusal, Time};
use skep_proto::request::{Watch, WatchFrom};
use skep_proto::status::from_refusal;
use skep_proto::v1;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::Status;

/// One watch.
pub(crate) struct Watching {
    guard: Gone,
    changes: mpsc::Receiver<WatchItem>,
    /// What was received and not sent yet; of the past, the version after it comes last.
    due: VecDeque<Recent>,
    chosen: Chosen,
    until: Option<Time>,
    /// Whether the core has answered, so that the time may run out.
    has_begun: bool,
    /// Whether nothing more is awaited: what has arrived is sent, then the stream ends.
    is_last: bool,
    is_over: bool,
}

impl Watching {
    /// Asks the core for it.
    pub(crate) fn open(shared: Arc<Shared>, watch: Watch) -> Result<Self, Refusal> {
        let chosen = Chosen::parse(watch.kinds, watch.filters)?;
        let (ticket, changes) = shared.waiting.for_watch();
        let guard = Gone { shared, ticket };
        guard.shared.inbox.put_call(event(ticket, watch.from))?;
        // What follows a version is sent at once or refused.
        let has_begun = matches!(watch.from, WatchFrom::After(_));
        let due = VecDeque::new();
        Ok(Self { guard, changes, due, chosen, until: watch.until, has_begun, is_last: false, is_over: false })
    }

    /// Its messages.
    pub(crate) fn stream(self) -> impl Stream<Item = Result<v1::WatchEvent, Status>> + Send {
        futures_util::stream::unfold(self, |mut watching| async move {
            let message = watching.next().await?;
            watching.is_over |= message.is_err();
            Some((message, watching))
        })
    }

    async fn next(&mut self) -> Option<Result<v1::WatchEvent, Status>> {
        loop {
            if let Some(event) = self.next_due() {
                return Some(Ok(event));
            }
            if self.is_over {
                return None;
            }
            let until = self.until.filter(|_| self.has_begun && !self.is_last);
            let item = tokio::select! {
                biased;
                () = passed(until) => {
                    // After a read, everything that was decided before it has arrived here.
                    self.is_last = true;
                    if let Err(refusal) = self.guard.shared.read(Consistency::Linearizable).await {
                        return Some(Err(from_refusal(&refusal)));
                    }
                    continue;
                }
                item = next_of(&mut self.changes, self.is_last) => item,
            };
            match item {
                Some(item) => {
                    if let Some(message) = self.take(item) {
                        return Some(message);
                    }
                }
                None if self.is_last => return None,
                None => {
                    let text = "the watch fell behind or the manager is stopping; resume it by version";
                    return Some(Err(Status::unavailable(text)));
                }
            }
        }
    }

    /// The next event of what was received.
    fn next_due(&mut self) -> Option<v1::WatchEvent> {
        while let Some(recent) = self.due.pop_front() {
            let event = self.event(&recent);
            // The last one says how far this goes, whatever of it was wanted.
            if self.due.is_empty() || !event.changes.is_empty() {
                return Some(event);
            }
        }
        None
    }

    /// The message that an item is; `None` if what it holds is due now.
    fn take(&mut self, item: WatchItem) -> Option<Result<v1::WatchEvent, Status>> {
        self.has_begun = true;
        Some(match item {
            WatchItem::Start(store) => {
                Ok(v1::WatchEvent { version: store.version, time: store.newest().0, ..Default::default() })
            }
            WatchItem::Past(store, past, is_complete) => {
                self.due = past.into();
                let end = Recent { version: store.version, wall: store.newest(), changes: Arc::new([]) };
                self.due.push_back(end);
                // With the past complete, its first version is the first message.
                Ok(v1::WatchEvent { incomplete: !is_complete, ..Default::default() })
            }
            WatchItem::Changes(recent) => {
                self.due = recent.into();
                return None;
            }
            // The version is compacted, or a snapshot replaced the store: read again.
            WatchItem::Ended(Refusal::FailedPrecondition(_)) => {
                self.is_over = true;
                Ok(v1::WatchEvent { resync: true, ..Default::default() })
            }
            WatchItem::Ended(refusal) => Err(from_refusal(&refusal)),
        })
    }

    fn event(&self, recent: &Recent) -> v1::WatchEvent {
        let is_late = self.until.is_some_and(|until| recent.wall > until);
        let wanted = recent.changes.iter().filter(|change| !is_late && self.chosen.accepts(change));
        let changes = wanted.map(message).collect();
        v1::WatchEvent { version: recent.version, time: recent.wall.0, changes, ..Default::default() }
    }
}

/// Which changes are wanted: values of one key are alternatives, different keys must all hold.
struct Chosen {
    kinds: Vec<Kind>,
    filters: BTreeMap<String, Vec<String>>,
}

impl Chosen {
    fn parse(kinds: Vec<Kind>, pairs: Vec<(String, String)>) -> Result<Self, Refusal> {
        let mut filters = BTreeMap::<String, Vec<String>>::new();
        for (key, value) in pairs {
            filter::check_event(&key)?;
            filters.entry(key).or_default().push(value);
        }
        Ok(Self { kinds, filters })
    }

    fn accepts(&self, change: &Change) -> bool {
        if !self.kinds.is_empty() && !self.kinds.contains(&change.object.kind) {
            return false;
        }
        if self.filters.is_empty() {
            return true;
        }
        let Some(object) = change.new.as_ref().or(change.old.as_ref()).map(StoredObject::to_object) else { return false };
        let (kind, id) = (object.reference().kind.to_string(), object.reference().id);
        let matches = |key: &str, value: &String| match key {
            "type" => kind == *value,
            "event" => action_word(change) == value,
            "scope" => value == "swarm",
            "id" => id.as_str().starts_with(value),
            "label" => labels(&object).is_some_and(|labels| has_label(labels, value)),
            key => kind == key && (id.as_str().starts_with(value) || object.name() == *value),
        };
        self.filters.iter().all(|(key, values)| values.iter().any(|value| matches(key, value)))
    }
}

fn event(ticket: Ticket, from: WatchFrom) -> Event {
    match from {
        WatchFrom::Now => Event::Watch { ticket, after: None },
        WatchFrom::After(version) => Event::Watch { ticket, after: Some(version) },
        WatchFrom::Since(since) => Event::WatchSince { ticket, since },
    }
}

/// The next item; the next of those that are there, if nothing more is awaited.
async fn next_of(changes: &mut mpsc::Receiver<WatchItem>, is_last: bool) -> Option<WatchItem> {
    if is_last { changes.try_recv().ok() } else { changes.recv().await }
}

/// Waits until the wall clock has passed a time; for ever if there is none.
async fn passed(until: Option<Time>) {
    match until {
        Some(until) => tokio::time::sleep(until.since(clock::now())).await,
        None => std::future::pending().await,
    }
}

fn action(change: &Change) -> v1::ChangeAction {
    match (&change.old, &change.new) {
        (None, _) => v1::ChangeAction::Create,
        (_, Some(_)) => v1::ChangeAction::Update,
        (_, None) => v1::ChangeAction::Remove,
    }
}

fn action_word(change: &Change) -> &'static str {
    match action(change) {
        v1::ChangeAction::Create => "create",
        v1::ChangeAction::Remove => "remove",
        _ => "update",
    }
}

fn labels(object: &Object) -> Option<&BTreeMap<String, String>> {
    Some(match object {
        Object::Cluster(it) => &it.spec.annotations.labels,
        Object::Node(it) => &it.spec.labels,
        Object::Network(it) => &it.spec.annotations.labels,
        Object::Secret(it) => &it.spec.annotations.labels,
        Object::Config(it) => &it.spec.annotations.labels,
        Object::Service(it) => &it.spec.spec.annotations.labels,
        Object::Task(_) => return None,
    })
}

fn message(change: &Change) -> v1::Change {
    let shown = |object: &StoredObject| v1::Object::from(&query::shown(object));
    let old = change.old.as_ref().map(shown);
    let object = change.new.as_ref().map(shown).or_else(|| old.clone());
    v1::Change { action: action(change).into(), object, old: old.filter(|_| change.new.is_some()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::config::{Config, ConfigSpec};
    use skep_model::service::Annotations;
    use skep_model::{ConfigId, Meta, ObjectRef, Section};

    fn config(name: &str) -> StoredObject {
        let labels = [("tier".to_owned(), "front".to_owned())].into();
        let annotations = Annotations { name: name.into(), labels };
        let spec = ConfigSpec { annotations, versions: Vec::new(), current: 1 };
        let meta = Meta { created_at: Time::ZERO, updated_at: Time::ZERO, made_at: Time::ZERO, version: 3 };
        let id = ConfigId::from_random([7; 16]);
        StoredObject::Config(Arc::new(Config { id, meta, spec: Section { version: 3, value: spec } }))
    }

    #[test]
    fn filters_choose_changes_by_what_they_are() {
        let object = ObjectRef { kind: Kind::Config, id: ConfigId::from_random([7; 16]).0 };
        let id = object.id.as_str().to_owned();
        let removal = Change { object, old: Some(config("web")), new: None };
        let creation = Change { object, old: None, new: Some(config("web")) };
        // (filters, whether the creation passes, whether the removal does)
        type Filters<'a> = &'a [(&'a str, &'a str)];
        let table: [(Filters<'_>, bool, bool); 14] = [
            (&[], true, true),
            (&[("type", "config")], true, true),
            (&[("type", "node")], false, false),
            (&[("type", "node"), ("type", "config")], true, true),
            (&[("event", "remove")], false, true),
            (&[("event", "create"), ("event", "remove")], true, true),
            (&[("event", "remove"), ("type", "service")], false, false),
            (&[("config", "web")], true, true),
            (&[("config", "we")], false, false),
            (&[("service", "web")], false, false),
            (&[("container", "web")], false, false),
            (&[("id", &id[..5])], true, true),
            (&[("label", "tier=front"), ("scope", "swarm")], true, true),
            (&[("label", "tier=back")], false, false),
        ];
        for (pairs, created, removed) in table {
            let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let chosen = Chosen::parse(Vec::new(), pairs).expect("the keys are known");
            assert_eq!((chosen.accepts(&creation), chosen.accepts(&removal)), (created, removed), "{:?}", chosen.filters);
        }
        let of_nodes = Chosen::parse(vec![Kind::Node], Vec::new()).expect("no filters");
        assert!(!of_nodes.accepts(&creation));
        let refusal = Chosen::parse(Vec::new(), vec![("colour".into(), "red".into())]).err().expect("an unknown key");
        assert!(refusal.to_string().starts_with("invalid filter \"colour\": events know"), "{refusal}");
    }
}
