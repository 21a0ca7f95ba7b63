//! `network verify`: what every ready node reaches of the others.
//!
//! Asked at the leader, which has the nodes' sessions, and answered within a
//! deadline: a node that does not answer is a row that says so.

use crate::api::Shared;
use crate::probes::Answer;
use skep_manager_core::Store;
use skep_manager_core::event::Consistency;
use skep_model::node::{Node, NodeState};
use skep_model::place::Place;
use skep_model::{Id, NetworkId, NodeId};
use skep_proto::status::from_refusal;
use skep_proto::v1::{NetdProbeRow, VerifyNetworksReply, VerifyNetworksRequest, VerifyRow};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;

/// For the nodes' answers, unless the caller says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The most that a caller may ask for.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// What an answer needs on its way, beyond the time that the node had.
const WAY: Duration = Duration::from_secs(2);

/// Asks and collects. This manager must be the leader.
pub async fn verify(shared: &Arc<Shared>, request: VerifyNetworksRequest) -> Result<VerifyNetworksReply, Status> {
    let store = shared.read(Consistency::Linearizable).await.map_err(|refusal| from_refusal(&refusal))?;
    let networks = request.networks.iter().map(|reference| store.resolve_network(reference).map(|network| network.id));
    let networks = networks.collect::<Result<Vec<NetworkId>, _>>().map_err(|refusal| from_refusal(&refusal))?;
    let timeout = match request.timeout {
        0 => TIMEOUT,
        nanos => Duration::from_nanos(nanos).min(TIMEOUT_MAX),
    };
    let ready = store.nodes().filter(|node| node.status.state == NodeState::Ready).map(|node| node.id);
    let nodes: BTreeSet<NodeId> = ready.collect();
    let question = Question { shared, id: shared.random_id() };
    let mut answers = shared.probes.ask(question.id, nodes, &networks, timeout);
    let mut rows = Vec::new();
    let collect = async {
        while let Some(answer) = answers.recv().await {
            add(&mut rows, &store, answer);
        }
    };
    if tokio::time::timeout(timeout + WAY, collect).await.is_err() {
        for node in shared.probes.end(question.id) {
            add(&mut rows, &store, (node, Err(format!("it did not answer within {} s", (timeout + WAY).as_secs()))));
        }
    }
    rows.extend(
        store.nodes().filter(|node| node.status.state == NodeState::Ready).flat_map(|node| faults(&store, node, &networks)),
    );
    let key = |row: &VerifyRow| (name(&store, &row.node_id), row.network.clone(), row.question.clone(), row.about.clone());
    rows.sort_by_cached_key(key);
    Ok(VerifyNetworksReply { rows })
}

fn add(rows: &mut Vec<VerifyRow>, store: &Store, (node, said): Answer) {
    match said {
        Ok(answered) => rows.extend(answered.into_iter().map(|row| verified(store, node, row))),
        Err(error) => rows.push(VerifyRow { node_id: node.to_string(), error, ..VerifyRow::default() }),
    }
}

/// What a node says of the places of its network that do not work, as far as it is
/// about the networks that were asked for; none = all.
fn faults<'a>(store: &'a Store, node: &'a Node, networks: &'a [NetworkId]) -> impl Iterator<Item = VerifyRow> + 'a {
    let is_asked = |id: NetworkId| networks.is_empty() || networks.contains(&id);
    let faults = &node.status.faults;
    let more =
        (faults.n_more > 0).then(|| (None, Place::Node.to_string(), format!("and {} more places do not work", faults.n_more)));
    let named = faults.faults.iter().filter_map(move |fault| {
        let (network, about) = match fault.place {
            Place::Network(id) if !is_asked(id) => return None,
            Place::Network(id) => (store.network(id), "network".to_owned()),
            Place::Service(id) => {
                (None, store.service(id).map_or_else(|| id.to_string(), |it| it.spec.spec.annotations.name.clone()))
            }
            Place::Task(id) => match store.task(id) {
                Some(task) if !task.networks.iter().any(|attachment| is_asked(attachment.network)) && !networks.is_empty() => {
                    return None;
                }
                Some(task) => (None, task.name()),
                None => (None, id.to_string()),
            },
            Place::Node | Place::Port(..) => (None, fault.place.to_string()),
        };
        Some((network, about, fault.reason.clone()))
    });
    named.chain(more).map(|(network, about, error)| VerifyRow {
        node_id: node.id.to_string(),
        network: network.map(|network| network.spec.annotations.name.clone()).unwrap_or_default(),
        question: "place".into(),
        about,
        error,
        micros: 0,
    })
}

/// A node names others by id; users know them by name.
fn verified(store: &Store, node: NodeId, row: NetdProbeRow) -> VerifyRow {
    let about = match row.question.as_str() {
        "reach" | "reach6" | "mtu" | "mtu6" | "forward" => name(store, &row.about),
        _ => row.about,
    };
    VerifyRow {
        node_id: node.to_string(),
        network: row.network,
        question: row.question,
        about,
        error: row.error,
        micros: row.micros,
    }
}

fn name(store: &Store, id: &str) -> String {
    let node = id.parse().ok().and_then(|id: NodeId| store.node(id));
    node.map_or_else(|| id.to_owned(), |node| node.description.hostname.clone())
}

/// Ends with its caller.
struct Question<'a> {
    shared: &'a Arc<Shared>,
    id: Id,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.shared.probes.end(self.id);
    }
}
