//! Questions to every node, what it reaches over the overlay networks.
//!
//! The leader, which has the sessions, asks; each node answers once. A node that
//! has no session, or loses it, has answered too: that it cannot be asked.

use crate::sessions::Sessions;
use skep_model::{Id, NetworkId, NodeId};
use skep_proto::v1::{NetdProbeRow, Probe, ProbeResult, manager_message};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::mpsc;

/// What a node said, or why it said nothing.
pub type Answer = (NodeId, Result<Vec<NetdProbeRow>, String>);

#[derive(Debug)]
struct Open {
    sender: mpsc::UnboundedSender<Answer>,
    probe: Probe,
    nodes: BTreeSet<NodeId>,
}

/// All questions that are open.
#[derive(Debug)]
pub struct Probes {
    sessions: Arc<Sessions>,
    open: Mutex<BTreeMap<Id, Open>>,
}

impl Probes {
    /// Nobody asks yet.
    pub fn new(sessions: Arc<Sessions>) -> Self {
        Self { sessions, open: Mutex::default() }
    }

    /// Asks each node about these networks, or about all. The receiver ends when
    /// every node has answered; whoever waits no longer calls [`Probes::end`].
    pub fn ask(
        &self,
        id: Id,
        nodes: BTreeSet<NodeId>,
        networks: &[NetworkId],
        timeout: Duration,
    ) -> mpsc::UnboundedReceiver<Answer> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let probe = Probe {
            probe_id: id.to_string(),
            networks: networks.iter().map(ToString::to_string).collect(),
            timeout: u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX),
        };
        self.lock().insert(id, Open { sender, probe: probe.clone(), nodes: nodes.clone() });
        if nodes.is_empty() {
            self.end(id);
        }
        for node in nodes {
            if !self.sessions.send_to_node(node, manager_message::Message::Probe(probe.clone())) {
                self.settle(id, node, Err("it has no session with the leader".into()));
            }
        }
        receiver
    }

    /// A node has opened a session: what it was asked and has not answered is asked again.
    pub fn ask_again(&self, node: NodeId) {
        let probes: Vec<Probe> =
            self.lock().values().filter(|open| open.nodes.contains(&node)).map(|open| open.probe.clone()).collect();
        for probe in probes {
            self.sessions.send_to_node(node, manager_message::Message::Probe(probe));
        }
    }

    /// A node has answered. What it was not asked, it is not heard on.
    pub fn answer(&self, node: NodeId, result: ProbeResult) {
        let Ok(id) = result.probe_id.parse::<Id>() else { return };
        let said = if result.error.is_empty() { Ok(result.rows) } else { Err(result.error) };
        self.settle(id, node, said);
    }

    /// A node's session ended and it opened no other: it will not answer.
    pub fn node_lost(&self, node: NodeId) {
        let ids: Vec<Id> = self.lock().iter().filter(|(_, open)| open.nodes.contains(&node)).map(|(id, _)| *id).collect();
        for id in ids {
            self.settle(id, node, Err("its session ended before it had answered".into()));
        }
    }

    /// Nobody waits any more. Returns the nodes that have not answered.
    pub fn end(&self, id: Id) -> BTreeSet<NodeId> {
        self.lock().remove(&id).map(|open| open.nodes).unwrap_or_default()
    }

    fn settle(&self, id: Id, node: NodeId, said: Result<Vec<NetdProbeRow>, String>) {
        let mut probes = self.lock();
        let Some(open) = probes.get_mut(&id) else { return };
        if open.nodes.remove(&node) {
            // The caller may have gone.
            let _ = open.sender.send((node, said));
        }
        if open.nodes.is_empty() {
            probes.remove(&id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Id, Open>> {
        self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::SessionId;

    fn node(n: u8) -> NodeId {
        NodeId::from_random([n; 16])
    }

    fn result(id: Id, about: &str) -> ProbeResult {
        let row = NetdProbeRow { about: about.into(), ..NetdProbeRow::default() };
        ProbeResult { probe_id: id.to_string(), rows: vec![row], error: String::new() }
    }

    /// Every node is heard once, in whatever way it goes; others are not heard.
    #[tokio::test]
    async fn each_node_answers_once_or_is_said_not_to() {
        let sessions = Arc::new(Sessions::default());
        let (sender, mut first_agent) = mpsc::channel(4);
        let (other_sender, mut second_agent) = mpsc::channel(4);
        sessions.insert(SessionId::from_random([1; 16]), node(1), sender);
        sessions.insert(SessionId::from_random([2; 16]), node(2), other_sender);
        let probes = Probes::new(sessions);
        let id = Id::from_random([9; 16]);
        let networks = [NetworkId::from_random([7; 16])];
        let mut answers = probes.ask(id, BTreeSet::from([node(1), node(2), node(3)]), &networks, Duration::from_secs(1));
        let asked = first_agent.recv().await.expect("it is asked").expect("with a message").message;
        let Some(manager_message::Message::Probe(probe)) = asked else { panic!("{asked:?} is no probe") };
        assert_eq!(probe.networks, [networks[0].to_string()]);
        assert_eq!(probe.timeout, 1_000_000_000);
        assert_eq!(answers.recv().await, Some((node(3), Err("it has no session with the leader".into()))));
        probes.answer(node(4), result(id, "a stranger"));
        probes.answer(node(1), result(id, "first"));
        probes.answer(node(1), result(id, "again"));
        // It comes back and is asked again, once, and only what it has not answered.
        probes.ask_again(node(1));
        probes.ask_again(node(2));
        assert!(first_agent.try_recv().is_err());
        for _ in 0..2 {
            assert!(matches!(second_agent.try_recv(), Ok(Ok(_))));
        }
        assert!(second_agent.try_recv().is_err());
        probes.node_lost(node(2));
        let (from, said) = answers.recv().await.expect("the first answered");
        assert_eq!((from, said.expect("well")[0].about.as_str()), (node(1), "first"));
        assert_eq!(answers.recv().await, Some((node(2), Err("its session ended before it had answered".into()))));
        assert_eq!(answers.recv().await, None, "all have answered");
        assert!(probes.end(id).is_empty());
    }

    #[tokio::test]
    async fn who_waits_no_longer_learns_who_is_missing() {
        let sessions = Arc::new(Sessions::default());
        let (sender, _agent) = mpsc::channel(4);
        sessions.insert(SessionId::from_random([1; 16]), node(1), sender);
        let probes = Probes::new(sessions);
        let id = Id::from_random([9; 16]);
        let mut answers = probes.ask(id, BTreeSet::from([node(1)]), &[], Duration::from_secs(1));
        assert_eq!(probes.end(id), BTreeSet::from([node(1)]));
        probes.answer(node(1), result(id, "late"));
        assert_eq!(answers.recv().await, None);
        let nobody = probes.ask(id, BTreeSet::new(), &[], Duration::from_secs(1)).recv().await;
        assert_eq!(nobody, None, "there is nobody to wait for");
    }
}
