//! One reader's logs: the lines of the tasks that there are and, for whoever follows a service, of those that come.

use crate::api::{Gone, Shared};
use crate::logs::Merged;
use crate::watches::{WatchItem, WatchReceiver};
use skep_manager_core::Event;
use skep_manager_core::query::ChangeFilters;
use skep_manager_core::store::{Change, StoredObject};
use skep_model::task::Task;
use skep_model::{Id, Kind, NodeId, ServiceId, TaskId, TaskState};
use skep_proto::v1::{LogChunk, LogOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is read, until it is dropped.
pub struct LogStream {
    shared: Arc<Shared>,
    options: LogOptions,
    merged: Merged,
    subscriptions: Vec<Id>,
    seen: BTreeSet<TaskId>,
    service: Option<FollowedService>,
}

/// A service whose new tasks are read as well.
struct FollowedService {
    id: ServiceId,
    changes: WatchReceiver,
    _guard: Gone,
}

impl Drop for LogStream {
    fn drop(&mut self) {
        for id in &self.subscriptions {
            self.shared.logs.unsubscribe(*id);
        }
    }
}

impl LogStream {
    /// Asks the nodes of these tasks. `follow` is the service whose tasks they are, if new ones of it are to be read, too,
    /// from the version on at which the tasks were looked up.
    pub fn open(shared: Arc<Shared>, tasks: &[Arc<Task>], options: LogOptions, follow: Option<(ServiceId, u64)>) -> Self {
        let service = follow.map(|(id, version)| {
            let of_service = [("service".to_owned(), id.to_string())];
            let chosen = ChangeFilters::parse(Vec::new(), of_service).expect("a key of watches");
            let (ticket, changes) = shared.waiting.for_watch(chosen, Some(version));
            shared.inbox.put(Event::Watch { ticket, after: Some(version) });
            FollowedService { id, changes, _guard: Gone { shared: shared.clone(), ticket } }
        });
        let merged = Merged::none(options.follow);
        let mut stream = Self { shared, options, merged, subscriptions: Vec::new(), seen: BTreeSet::new(), service };
        stream.read(tasks.iter().map(AsRef::as_ref));
        stream
    }

    /// The next line; `None` at the end.
    pub async fn next(&mut self) -> Option<LogChunk> {
        loop {
            let Some(service) = &mut self.service else { return self.merged.next().await };
            let item = tokio::select! {
                biased;
                Some(chunk) = self.merged.next() => return Some(chunk),
                item = service.changes.next() => item,
            };
            self.changed(item);
        }
    }

    fn changed(&mut self, item: Option<WatchItem>) {
        let Some(service) = self.service.as_ref().map(|service| service.id) else { return };
        let recent = match item {
            Some(WatchItem::Changes(recent)) => recent,
            Some(WatchItem::Start(_) | WatchItem::Past(_)) => return,
            // The watch fell behind, or the manager stops: what is being read goes on.
            Some(WatchItem::Ended(_)) | None => {
                self.service = None;
                return;
            }
        };
        if recent.changes.iter().any(|change| is_removal(change, service)) {
            self.service = None;
        }
        let tasks = recent.changes.iter().filter_map(|change| match &change.new {
            Some(StoredObject::Task(task)) => Some(task.as_ref()),
            _ => None,
        });
        self.read(tasks);
    }

    /// Asks the nodes of those tasks that have one and are not read yet.
    fn read<'a>(&mut self, tasks: impl Iterator<Item = &'a Task>) {
        let mut nodes = BTreeMap::<NodeId, Vec<TaskId>>::new();
        for task in tasks {
            if let Some(node) = task.plan.node.filter(|_| task.status.state >= TaskState::Assigned)
                && self.seen.insert(task.id)
            {
                nodes.entry(node).or_default().push(task.id);
            }
        }
        if nodes.is_empty() {
            return;
        }
        let id = self.shared.random_id();
        self.subscriptions.push(id);
        self.merged.join(self.shared.logs.subscribe(id, nodes, self.options));
    }
}

fn is_removal(change: &Change, service: ServiceId) -> bool {
    change.new.is_none() && change.object.kind == Kind::Service && change.object.id == service.0
}
