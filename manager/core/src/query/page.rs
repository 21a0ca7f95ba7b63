//! Pages of lists.
//!
//! - The order is that of ids. An object that is there from the first page to the last one is on exactly one of them; one
//!   that comes or goes between two pages may be missed.
//! - A page ends at its count or at [`PAGE_BYTES_MAX`], whichever comes first, and has at least one object if there is one:
//!   none is larger than what a message has room for besides.
//! - The token of the next page says where this one ended and in which version of the store: nothing is kept for it.

use super::filters::Filters;
use super::shown::shown;
use crate::store::{Store, StoredObject};
use prost::Message as _;
use skep_model::service::{Service, ServiceMode};
use skep_model::{Id, Kind, Refusal};
use skep_proto::request::{Filters as Pairs, Page, PageToken};
use skep_proto::v1;
use skep_proto::{PAGE_BYTES_MAX, PAGE_OBJECTS_MAX};

/// Bytes of a message that come with each object: its tag and length.
const ENVELOPE: usize = 8;

/// One page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listed {
    /// The objects that pass, by id, as they are shown.
    pub objects: Vec<v1::Object>,
    /// How many tasks each service has, in the order of `objects`; empty for other kinds.
    pub statuses: Vec<v1::ServiceStatus>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<PageToken>,
}

/// A page of all objects of a kind.
///
/// # Errors
/// If the filters have a key or a word that no list of this kind knows.
pub fn list(store: &Store, kind: Kind, pairs: Pairs, page: &Page) -> Result<Listed, Refusal> {
    let filters = Filters::parse(kind, pairs)?;
    Ok(take(store, store.objects_after(kind, after(page)), &filters, page))
}

/// A page of the tasks of a service.
///
/// # Errors
/// As [`list`], and if there is no such service.
pub fn tasks_of_service(store: &Store, reference: &str, pairs: Pairs, page: &Page) -> Result<Listed, Refusal> {
    let (service, filters) = (store.resolve_service(reference)?.id, Filters::parse(Kind::Task, pairs)?);
    let tasks = store.tasks_of_service_after(service, after(page)).cloned().map(StoredObject::Task);
    Ok(take(store, tasks, &filters, page))
}

/// A page of the tasks of a node.
///
/// # Errors
/// As [`list`], and if there is no such node.
pub fn tasks_of_node(store: &Store, reference: &str, pairs: Pairs, page: &Page) -> Result<Listed, Refusal> {
    let (node, filters) = (store.resolve_node(reference)?.id, Filters::parse(Kind::Task, pairs)?);
    let tasks = store.tasks_of_node_after(node, after(page)).cloned().map(StoredObject::Task);
    Ok(take(store, tasks, &filters, page))
}

fn after(page: &Page) -> Option<Id> {
    page.token.as_ref().map(|token| token.last)
}

fn take(store: &Store, objects: impl Iterator<Item = StoredObject>, filters: &Filters, page: &Page) -> Listed {
    let size = if page.size == 0 { PAGE_OBJECTS_MAX } else { page.size.min(PAGE_OBJECTS_MAX) };
    let (mut listed, mut bytes, mut last) = (Listed::default(), 0, None);
    for object in objects.filter(|object| filters.accept(store, object)) {
        let wire = v1::Object::from(&shown(&object));
        bytes += wire.encoded_len() + ENVELOPE;
        if let Some(last) = last
            && (listed.objects.len() == size || bytes > PAGE_BYTES_MAX)
        {
            listed.next = Some(PageToken { version: store.version, last });
            break;
        }
        last = Some(object.reference().id);
        if let StoredObject::Service(service) = &object {
            listed.statuses.push(status(store, service));
        }
        listed.objects.push(wire);
    }
    listed
}

/// How many tasks of a service run, and how many it is to have.
fn status(store: &Store, service: &Service) -> v1::ServiceStatus {
    let counts = store.task_counts(service.id);
    let desired_tasks = match service.spec.spec.mode {
        ServiceMode::Replicated { replicas } => replicas,
        ServiceMode::Global {} => counts.desired,
    };
    v1::ServiceStatus { running_tasks: counts.running, desired_tasks }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transaction::{Transaction, Write};
    use skep_model::config::{Config, ConfigSpec};
    use skep_model::service::{Annotations, TaskSpec};
    use skep_model::task::{Task, TaskPlan, TaskStatus};
    use skep_model::{ConfigId, Meta, NodeId, Object, Section, ServiceId, TaskId, TaskState, Time};
    use std::sync::Arc;

    fn id(kind: u8, n: u16) -> [u8; 16] {
        let mut id = [kind; 16];
        id[..2].copy_from_slice(&n.to_be_bytes());
        id
    }

    fn store(objects: impl Iterator<Item = Object>) -> Store {
        let mut store = Store::empty(1);
        store
            .apply(2, &Transaction { writes: objects.map(Write::Create).collect(), ..Transaction::new(Time::ZERO) })
            .expect("new");
        store
    }

    fn config(n: u16, n_bytes: usize) -> Object {
        // No label is longer than a text may be.
        let labels =
            (0..n_bytes).step_by(60_000).map(|at| (format!("blob{at}"), "x".repeat((n_bytes - at).min(60_000)))).collect();
        let annotations = Annotations { name: format!("config{n}"), labels };
        let spec = Section::new(ConfigSpec { annotations, versions: Vec::new(), current: 1 });
        Object::Config(Box::new(Config { id: ConfigId::from_random(id(1, n)), meta: Meta::default(), spec }))
    }

    fn task(n: u16, service: u16, desired: TaskState, state: TaskState) -> Object {
        let plan = TaskPlan { node: Some(NodeId::from_random(id(4, n % 3))), ..TaskPlan::new(desired, Time::ZERO) };
        Object::Task(Box::new(Task {
            id: TaskId::from_random(id(2, n)),
            meta: Meta::default(),
            service_id: ServiceId::from_random(id(3, service)),
            service_name: format!("s{service}"),
            service_labels: Default::default(),
            slot: u64::from(n),
            spec: Arc::new(TaskSpec::default()),
            spec_version: 1,
            networks: Vec::new(),
            ports: Vec::new(),
            plan: Section::new(plan),
            status: Section::new(TaskStatus::new(state, Time::ZERO)),
        }))
    }

    /// All pages, as ids; each is checked to fit into a message.
    fn pages(size: usize, read: impl Fn(&Page) -> Listed) -> Vec<Vec<Id>> {
        let (mut page, mut found) = (Page { size, token: None }, Vec::new());
        loop {
            let listed = read(&page);
            let reply = v1::ReadReply { objects: listed.objects, service_statuses: listed.statuses, ..Default::default() };
            assert!(reply.encoded_len() <= skep_proto::MESSAGE_MAX, "a page of {} bytes", reply.encoded_len());
            let ids = reply.objects.into_iter().map(|object| Object::try_from(object).expect("valid").reference().id);
            found.push(ids.collect());
            page.token = listed.next;
            if page.token.is_none() {
                return found;
            }
        }
    }

    /// Everything once, by id.
    fn check(pages: &[Vec<Id>], expected: usize) {
        let all = pages.concat();
        assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
        assert_eq!(all.len(), expected);
    }

    #[test]
    fn a_page_ends_at_its_size_or_at_the_bytes_of_a_message() {
        let small = store((0..25).map(|n| config(n, 10)));
        let of = |store: &Store, size, pairs: Pairs| {
            pages(size, |page| list(store, Kind::Config, pairs.clone(), page).expect("the keys are known"))
        };
        for (size, lengths) in [(10, &[10, 10, 5][..]), (25, &[25]), (24, &[24, 1]), (0, &[25]), (usize::MAX, &[25])] {
            let found = of(&small, size, Vec::new());
            check(&found, 25);
            assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), lengths, "of {size}");
        }
        // What a filter leaves out counts for no page.
        let found = of(&small, 4, vec![("name".into(), "config1".into())]);
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 3]);
        check(&found, 11);
        let large = store((0..90).map(|n| config(n, 60_000)));
        let found = of(&large, 0, Vec::new());
        check(&found, 90);
        assert!(found.len() > 2, "{} pages", found.len());
        // One that is longer than a page is a page.
        let found = of(&store((0..3).map(|n| config(n, PAGE_BYTES_MAX))), 0, Vec::new());
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!(of(&Store::empty(1), 0, Vec::new()), [Vec::new()]);
    }

    #[test]
    fn what_goes_between_two_pages_ends_no_list() {
        let mut store = store((0..9).map(|n| config(n, 10)));
        let page = Page { size: 3, token: None };
        let first = list(&store, Kind::Config, Vec::new(), &page).expect("no filters");
        let token = first.next.expect("there is more");
        assert_eq!(token.version, 2);
        let gone = |n| Write::Remove(config(n, 10).reference());
        let transaction = Transaction { writes: vec![gone(2), gone(3)], ..Transaction::new(Time::ZERO) };
        store.apply(3, &transaction).expect("they were there");
        let rest = list(&store, Kind::Config, Vec::new(), &Page { size: 0, token: Some(token) }).expect("no filters");
        assert_eq!((rest.objects.len(), rest.next), (5, None));
    }

    #[test]
    fn tasks_of_a_service_and_of_a_node_come_in_pages_of_their_own() {
        use TaskState::{Running, Shutdown};
        let tasks = |service: u16| (0..30).map(move |n| task(n * 10 + service, service, Running, Running));
        let mut all = store((0..10).flat_map(tasks));
        // They are found by what they belong to, which must be there.
        let services = (0..10).map(|n| service(n, ServiceMode::Replicated { replicas: 40 }));
        let nodes = (0..3).map(node);
        let transaction =
            Transaction { writes: services.chain(nodes).map(Write::Create).collect(), ..Transaction::new(Time::ZERO) };
        all.apply(3, &transaction).expect("new");
        let reference = ServiceId::from_random(id(3, 7)).to_string();
        let found = pages(7, |page| tasks_of_service(&all, &reference, Vec::new(), page).expect("it is there"));
        assert_eq!(found.len(), 5);
        check(&found, 30);
        let reference = NodeId::from_random(id(4, 1)).to_string();
        let found = pages(7, |page| tasks_of_node(&all, &reference, Vec::new(), page).expect("it is there"));
        check(&found, 100);
        let pairs = vec![("desired-state".to_owned(), "shutdown".to_owned())];
        assert_eq!(tasks_of_node(&all, &reference, pairs, &Page::default()), Ok(Listed::default()));
        assert!(tasks_of_node(&all, "nobody", Vec::new(), &Page::default()).is_err());

        // The counts: of replicas that are wanted, and of tasks for a global service.
        let mut store = all;
        let extra = [
            service(20, ServiceMode::Global {}),
            task(900, 20, Running, Running),
            task(901, 20, Running, TaskState::Starting),
            task(902, 20, Shutdown, Running),
            service(21, ServiceMode::Global {}),
        ];
        store.apply(4, &Transaction { writes: extra.map(Write::Create).into(), ..Transaction::new(Time::ZERO) }).expect("new");
        let statuses = list(&store, Kind::Service, Vec::new(), &Page::default()).expect("no filters").statuses;
        let counts: Vec<_> = statuses.iter().map(|status| (status.running_tasks, status.desired_tasks)).collect();
        assert_eq!(counts, [vec![(30, 40); 10], vec![(1, 2), (0, 0)]].concat());
    }

    fn node(n: u16) -> Object {
        use skep_model::node::{Node, NodeDescription, NodePlan, NodeSpec, NodeStatus};
        Object::Node(Box::new(Node {
            id: NodeId::from_random(id(4, n)),
            meta: Meta::default(),
            spec: Section::new(NodeSpec::default()),
            description: Section::new(NodeDescription::default()),
            status: Section::new(NodeStatus::default()),
            plan: Section::new(NodePlan::default()),
        }))
    }

    fn service(n: u16, mode: ServiceMode) -> Object {
        use skep_model::service::{ServicePlan, ServiceRecord, ServiceSpec, UpdateConfig};
        let spec = ServiceSpec {
            annotations: Annotations { name: format!("s{n}"), ..Annotations::default() },
            task_template: TaskSpec::default(),
            mode,
            update_config: UpdateConfig::default(),
            rollback_config: UpdateConfig::default(),
            deadline: None,
            endpoint_spec: Default::default(),
        };
        let plan = ServicePlan { deployment: None, removed_at: None, endpoint: Default::default() };
        Object::Service(Box::new(Service {
            id: ServiceId::from_random(id(3, n)),
            meta: Meta::default(),
            spec: Section::new(ServiceRecord { spec, previous: None, spec_version: 1 }),
            plan: Section::new(plan),
        }))
    }
}
