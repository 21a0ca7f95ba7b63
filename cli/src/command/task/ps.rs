//! Lists of tasks, for `service ps` and `node ps`.

use crate::client::Client;
use crate::command::node;
use crate::failure::Failure;
use crate::flags::filter;
use crate::render::listing::{Listing, row, short};
use crate::render::{ago, ports};
use skep_model::node::Node;
use skep_model::place::{Place, PlaceFaults};
use skep_model::task::Task;
use skep_model::{Kind, NodeId, Object, Time};
use skep_template::Format;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// The flags of a list of tasks.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Filter output based on conditions provided
    #[arg(long, short, value_parser = filter::parse, value_name = "KEY=VALUE")]
    pub filter: Vec<(String, String)>,
    /// table, table TEMPLATE, json, or a Go template
    #[arg(long)]
    pub format: Option<String>,
    /// Do not map IDs to Names
    #[arg(long)]
    pub no_resolve: bool,
    /// Do not truncate output
    #[arg(long)]
    pub no_trunc: bool,
    /// Only display task IDs
    #[arg(long, short)]
    pub quiet: bool,
}

/// What a list of tasks needs besides them. It may lack what is gone.
#[derive(Debug, Default)]
pub struct Known {
    nodes: BTreeMap<NodeId, String>,
    /// What of the nodes' networks does not work.
    faults: BTreeMap<NodeId, PlaceFaults>,
}

impl Known {
    /// The nodes' names, and what of their networks does not work.
    pub async fn of(client: &Client) -> Result<Self, Failure> {
        let mut known = Self::default();
        for node in node::all(client).await? {
            let Node { id, description, status, .. } = node;
            known.nodes.insert(id, description.value.hostname);
            known.faults.insert(id, status.value.faults);
        }
        Ok(known)
    }

    /// What does not work for a task that has not ended: on its own node, or for it
    /// elsewhere. One sentence for each.
    pub fn faults(&self, task: &Task) -> Vec<String> {
        if task.status.state.is_final() {
            return Vec::new();
        }
        let own = task.plan.node.and_then(|node| self.faults.get(&node));
        let own = own.into_iter().flat_map(|faults| faults.of_task(task)).map(|fault| fault.reason.clone());
        let others = self.faults.iter().filter(|(node, _)| Some(**node) != task.plan.node);
        let elsewhere = others.flat_map(|(node, faults)| {
            let of_it = faults.faults.iter().filter(|fault| fault.place == Place::Task(task.id));
            of_it.map(|fault| format!("on node {}: {}", self.nodes.get(node).map_or(node.as_str(), String::as_str), fault.reason))
        });
        own.chain(elsewhere).collect()
    }
}

impl Flags {
    /// Refuses filters that no list of tasks knows.
    pub fn check(&self) -> Result<(), Failure> {
        filter::check(Kind::Task, &self.filter)
    }

    /// The text of the list.
    pub fn render(&self, mut tasks: Vec<Task>, known: &Known, now: Time) -> Result<String, Failure> {
        tasks.sort_by_cached_key(order);
        tasks.dedup_by(|a, b| a.id == b.id);
        let format = Format::parse(self.format.as_deref().unwrap_or_default())?;
        let is_table = matches!(format, Format::Table | Format::Columns(_));
        self.listing(&tasks, is_table, known, now).render(self.format.as_deref(), self.quiet)
    }

    /// In a table, the predecessors of a task are set in from it.
    fn listing(&self, tasks: &[Task], is_table: bool, known: &Known, now: Time) -> Listing {
        let mut previous = None;
        let mut rows = Vec::with_capacity(tasks.len());
        for task in tasks {
            let place = place(task);
            let is_history = is_table && previous.as_ref() == Some(&place);
            rows.push(self.row(task, is_history, known, now));
            previous = Some(place);
        }
        Listing {
            columns: "{{.ID}}\t{{.Name}}\t{{.Image}}\t{{.Node}}\t{{.DesiredState}}\t{{.CurrentState}}\t{{.Error}}\t{{.Ports}}",
            headers: &[
                ("ID", "ID"),
                ("Name", "NAME"),
                ("Image", "IMAGE"),
                ("Node", "NODE"),
                ("DesiredState", "DESIRED STATE"),
                ("CurrentState", "CURRENT STATE"),
                ("Error", "ERROR"),
                ("Ports", "PORTS"),
                ("Publication", "PUBLICATION"),
            ],
            raw: &[
                ("id", "ID"),
                ("name", "Name"),
                ("image", "Image"),
                ("node", "Node"),
                ("desired_state", "DesiredState"),
                ("current_state", "CurrentState"),
                ("error", "Error"),
                ("ports", "Ports"),
            ],
            rows,
            labels: Vec::new(),
            quiet: tasks.iter().map(|task| self.id(task)).collect(),
        }
    }

    fn row(&self, task: &Task, is_history: bool, known: &Known, now: Time) -> serde_json::Value {
        let names = &known.nodes;
        let name = if self.no_resolve { place_of(task.service_id.as_str(), task) } else { name(task) };
        let state = title(task.status.state.name());
        row([
            ("ID", self.id(task).into()),
            ("Name", if is_history { format!(" \\_ {name}") } else { name }.into()),
            (
                "Image",
                if self.no_trunc {
                    task.spec.container_spec.image.clone()
                } else {
                    without_digest(&task.spec.container_spec.image)
                }
                .into(),
            ),
            ("Node", node_name(task, names, self.no_resolve).into()),
            ("DesiredState", title(task.plan.desired.name()).into()),
            ("CurrentState", format!("{state} {}", lower(&ago::ago(task.status.timestamp, now))).into()),
            ("Error", self.error(&error(task, known)).into()),
            ("Ports", ports::of_task(task).into()),
            ("Publication", skep_docker::publication(task).into()),
        ])
    }

    fn id(&self, task: &Task) -> String {
        if self.no_trunc { task.id.to_string() } else { short(task.id.as_str()).to_owned() }
    }

    fn error(&self, error: &str) -> String {
        let line = error.replace(['\n', '\t'], " ");
        if line.is_empty() {
            return String::new();
        }
        if self.no_trunc || line.chars().count() <= 30 {
            return format!("\"{line}\"");
        }
        format!("\"{}…\"", line.chars().take(29).collect::<String>())
    }
}

/// Why a task failed, or what of its network does not work.
fn error(task: &Task, known: &Known) -> String {
    if task.status.error.is_empty() { known.faults(task).join("; ") } else { task.status.error.clone() }
}

/// `service.slot`, or `service.node` with the node's id for a global service.
pub fn name(task: &Task) -> String {
    place_of(&task.service_name, task)
}

fn place_of(service: &str, task: &Task) -> String {
    match (task.slot, task.plan.node) {
        (0, Some(node)) => format!("{service}.{node}"),
        (slot, _) => format!("{service}.{slot}"),
    }
}

fn node_name(task: &Task, names: &BTreeMap<NodeId, String>, no_resolve: bool) -> String {
    let Some(node) = task.plan.node else { return String::new() };
    let resolved = names.get(&node).filter(|_| !no_resolve);
    resolved.cloned().unwrap_or_else(|| node.to_string())
}

/// What several tasks follow one another in: a slot, or a node of a global service.
fn place(task: &Task) -> (String, u64, Option<NodeId>) {
    (task.service_id.to_string(), task.slot, task.plan.node.filter(|_| task.slot == 0))
}

/// By service and place, the newest task of a place first.
fn order(task: &Task) -> impl Ord + use<> {
    (task.service_name.clone(), place(task), Reverse(task.meta.made()), task.id)
}

/// With a capital first letter.
pub fn title(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn lower(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// An image reference as lists show it.
pub fn without_digest(image: &str) -> String {
    image.split_once('@').map_or(image, |(name, _)| name).to_owned()
}

/// The tasks among objects.
pub fn tasks(objects: Vec<Object>) -> Vec<Task> {
    objects.into_iter().filter_map(|object| if let Object::Task(task) = object { Some(*task) } else { None }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;
    use expect_test::expect;
    use skep_model::TaskState;

    fn flags() -> Flags {
        Flags { filter: Vec::new(), format: None, no_resolve: false, no_trunc: false, quiet: false }
    }

    fn known() -> Known {
        Known { nodes: BTreeMap::from([(sample::node().id, "m1".to_owned())]), faults: BTreeMap::new() }
    }

    #[test]
    fn a_task_shows_what_of_its_network_does_not_work() {
        use skep_model::place::PlaceFault;
        let (task, mut known) = (sample::published_task(), known());
        let network = task.networks[0].network;
        let of_network = PlaceFault::blocking(Place::Network(network), "no link has the address");
        known.faults.insert(sample::node().id, PlaceFaults::new([PlaceFault::lasting(Place::Node, "no IPv6"), of_network]));
        assert_eq!(known.faults(&task), ["no link has the address"]);
        let elsewhere = NodeId::from_random([8; 16]);
        known.faults.insert(elsewhere, PlaceFaults::new([PlaceFault::blocking(Place::Task(task.id), "it is left out")]));
        assert_eq!(known.faults(&task)[1..], [format!("on node {elsewhere}: it is left out")]);
        let format = Some("{{.Error}}".to_owned());
        let text = Flags { no_trunc: true, format, ..flags() }.render(vec![task.clone()], &known, Time(0)).expect("a list");
        assert!(text.starts_with("\"no link has the address; on node "), "{text}");
        let mut ended = task;
        ended.status.value.state = TaskState::Failed;
        assert!(known.faults(&ended).is_empty(), "one that ended has its own error");
    }

    /// A slot with a running task and the one it replaced, oldest first.
    fn slot() -> Vec<Task> {
        let mut old = sample::task();
        old.id = skep_model::TaskId::from_random([9; 16]);
        old.meta.made_at = Time(1);
        old.plan.value.desired = TaskState::Shutdown;
        old.status.value.state = TaskState::Failed;
        old.status.value.error = "task: non-zero exit (1): it did not like its configuration".into();
        let mut new = sample::task();
        new.status.value.ports = sample::published_task().status.value.ports;
        vec![old, new]
    }

    #[test]
    fn the_history_of_a_slot_is_indented() {
        let known = known();
        let now = Time(135_000_000_000);
        expect![[r#"
            ID             NAME        IMAGE     NODE      DESIRED STATE   CURRENT STATE           ERROR                              PORTS
            000000000000   web.1       redis:7   m1        Running         Running 2 minutes ago                                      *:32768->70/tcp, *:9090->9090/udp
            0j98tjjwkyd4    \_ web.1   redis:7   m1        Shutdown        Failed 2 minutes ago    "task: non-zero exit (1): it d…"
        "#]]
        .assert_eq(&flags().render(slot(), &known, now).expect("a list"));
    }

    #[test]
    fn ids_stay_ids_and_errors_whole_when_asked() {
        let known = known();
        let format = Some("{{.ID}} {{.Name}} {{.Node}} {{.Error}}".to_owned());
        let text = Flags { no_resolve: true, no_trunc: true, format, ..flags() }.render(slot(), &known, Time(0)).expect("a list");
        let (id, node) = (sample::task().id, sample::node().id);
        let service = sample::service().id;
        assert!(text.starts_with(&format!("{id} {service}.1 {node} \n")), "{text}");
        assert!(text.ends_with("it did not like its configuration\"\n"), "{text}");
        let quiet = Flags { quiet: true, ..flags() }.render(slot(), &known, Time(0)).expect("a list");
        assert_eq!(quiet.lines().count(), 2);
    }
}
