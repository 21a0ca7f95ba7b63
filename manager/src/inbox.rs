//! What waits for the core, by whom it comes from.
//!
//! Raft and this manager's own completions come before everything else, calls before
//! what agents say, and agents take turns: whatever one of them sends delays another's
//! by one event a turn, and raft by nothing. Every queue is bounded where it is filled
//! from outside: a peer and an agent wait until their messages have been taken, which
//! HTTP/2 then tells them, and a call is refused where too many wait.

use raft::eraftpb;
use skep_manager_core::Event;
use skep_model::{NodeId, Refusal};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Events that are handed over before actions are taken: of raft and of this manager's own.
const BATCH_MAX: usize = 1024;
/// The same of calls.
const BATCH_OF_CALLS_MAX: usize = 512;
/// The same of agents.
const BATCH_OF_AGENTS_MAX: usize = 256;
/// Messages of all other managers' rafts that wait.
const PEER_MESSAGES_MAX: usize = 4096;
/// Calls that wait.
const CALLS_MAX: usize = 16 * 1024;
/// Events of one node's sessions that wait.
pub const NODE_EVENTS_MAX: usize = 64;

/// Where events are put. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Inbox(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queues: Mutex<Queues>,
    has_news: Notify,
    peer_places: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Queues {
    /// Raft's messages, and what this manager itself began and has finished.
    first: VecDeque<(Event, Option<OwnedSemaphorePermit>)>,
    calls: VecDeque<Event>,
    agents: BTreeMap<NodeId, VecDeque<(Event, Option<OwnedSemaphorePermit>)>>,
    /// Nodes with events, in the order of their turns.
    turns: VecDeque<NodeId>,
    is_closed: bool,
}

/// The places of one session's events.
#[derive(Clone, Debug)]
pub struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(NODE_EVENTS_MAX)))
    }
}

impl Default for Inbox {
    fn default() -> Self {
        let peer_places = Arc::new(Semaphore::new(PEER_MESSAGES_MAX));
        Self(Arc::new(Shared { queues: Mutex::default(), has_news: Notify::new(), peer_places }))
    }
}

impl Inbox {
    /// Hands over what this manager itself began and has finished, which is bounded by
    /// what it began. Nothing happens if it has stopped: whoever waits sees its ticket
    /// dropped.
    pub fn put(&self, event: Event) {
        self.add(|queues| queues.first.push_back((event, None)));
    }

    /// A message of another manager's raft; waits while too many do.
    pub async fn put_peer(&self, message: eraftpb::Message) {
        let Ok(place) = self.0.peer_places.clone().acquire_owned().await else { return };
        self.add(|queues| queues.first.push_back((Event::Peer(Box::new(message)), Some(place))));
    }

    /// A call of somebody who waits for the answer.
    ///
    /// # Errors
    /// If too many wait.
    pub fn put_call(&self, event: Event) -> Result<(), Refusal> {
        let mut is_full = false;
        self.add(|queues| {
            is_full = queues.calls.len() >= CALLS_MAX;
            if !is_full {
                queues.calls.push_back(event);
            }
        });
        if is_full {
            return Err(Refusal::Unavailable(format!("{CALLS_MAX} calls wait for this manager already; try again")));
        }
        Ok(())
    }

    /// What the session of a node's agent says; waits while its places are taken.
    pub async fn put_agent(&self, node: NodeId, places: &Places, event: Event) {
        let Ok(place) = places.0.clone().acquire_owned().await else { return };
        self.add_of_agent(node, event, Some(place));
    }

    /// That a session has ended: at once, behind what it said.
    pub fn put_end_of_session(&self, node: NodeId, event: Event) {
        self.add_of_agent(node, event, None);
    }

    fn add_of_agent(&self, node: NodeId, event: Event, place: Option<OwnedSemaphorePermit>) {
        self.add(|queues| {
            let queue = queues.agents.entry(node).or_default();
            queue.push_back((event, place));
            if queue.len() == 1 {
                queues.turns.push_back(node);
            }
        });
    }

    fn add(&self, add: impl FnOnce(&mut Queues)) {
        let mut queues = self.lock();
        if !queues.is_closed {
            add(&mut queues);
            drop(queues);
            self.0.has_news.notify_one();
        }
    }

    /// Everything that is to be handed over together; waits until there is something.
    /// Only the loop calls it.
    pub async fn next(&self) -> Vec<Event> {
        loop {
            let news = self.0.has_news.notified();
            let batch = self.lock().batch();
            if !batch.is_empty() {
                return batch;
            }
            news.await;
        }
    }

    /// The loop has ended: nothing is taken any more.
    pub fn close(&self) {
        self.0.peer_places.close();
        *self.lock() = Queues { is_closed: true, ..Queues::default() };
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.0.queues.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Queues {
    fn batch(&mut self) -> Vec<Event> {
        let n = self.first.len().min(BATCH_MAX);
        let mut batch: Vec<Event> = self.first.drain(..n).map(|(event, _)| event).collect();
        let n = self.calls.len().min(BATCH_OF_CALLS_MAX);
        batch.extend(self.calls.drain(..n));
        let end = batch.len() + BATCH_OF_AGENTS_MAX;
        while batch.len() < end {
            let Some(node) = self.turns.pop_front() else { break };
            let Some(queue) = self.agents.get_mut(&node) else { continue };
            batch.extend(queue.pop_front().map(|(event, _)| event));
            if queue.is_empty() {
                self.agents.remove(&node);
            } else {
                self.turns.push_back(node);
            }
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_manager_core::Ticket;
    use skep_manager_core::event::Consistency;
    use skep_model::SessionId;
    use std::time::Duration;

    fn node(n: u8) -> NodeId {
        NodeId::from_random([n; 16])
    }

    fn beat(n: u8) -> Event {
        Event::Heartbeat { session: SessionId::from_random([n; 16]) }
    }

    fn read(n: u64) -> Event {
        Event::Read { ticket: Ticket(n), consistency: Consistency::Stale }
    }

    /// One letter for each event.
    fn letters(batch: &[Event]) -> String {
        let letter = |event: &Event| match event {
            Event::Peer(_) => 'p',
            Event::Persisted { .. } => 'd',
            Event::Read { .. } => 'r',
            Event::Heartbeat { session } if *session == SessionId::from_random([1; 16]) => '1',
            Event::Heartbeat { .. } => '2',
            _ => '?',
        };
        batch.iter().map(letter).collect()
    }

    #[tokio::test]
    async fn raft_comes_first_calls_next_and_agents_take_turns() {
        let inbox = Inbox::default();
        let (first, second) = (Places::default(), Places::default());
        for _ in 0..3 {
            inbox.put_agent(node(1), &first, beat(1)).await;
        }
        inbox.put_agent(node(2), &second, beat(2)).await;
        inbox.put_call(read(1)).unwrap();
        inbox.put_peer(eraftpb::Message::default()).await;
        inbox.put(Event::Persisted { n: 1 });
        assert_eq!(letters(&inbox.next().await), "pdr1211");
    }

    /// What one agent sends is bounded, and raft is not behind it.
    #[tokio::test]
    async fn an_agent_that_floods_fills_its_own_places_only() {
        let inbox = Inbox::default();
        let places = Places::default();
        let flood = tokio::spawn({
            let (inbox, places) = (inbox.clone(), places.clone());
            async move {
                loop {
                    inbox.put_agent(node(1), &places, beat(1)).await;
                }
            }
        });
        let soon = Duration::from_secs(20);
        let filled = async {
            while places.0.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(soon, filled).await.expect("the flood fills its places");
        tokio::time::timeout(soon, inbox.put_agent(node(2), &Places::default(), beat(2))).await.expect("the other has its own");
        inbox.put_peer(eraftpb::Message::default()).await;
        let batch = letters(&inbox.next().await);
        assert_eq!(batch.len(), NODE_EVENTS_MAX + 2);
        assert!(batch.starts_with("p12"), "{batch}");
        flood.abort();
    }

    #[tokio::test]
    async fn calls_beyond_the_most_are_refused_and_a_closed_inbox_takes_nothing() {
        let inbox = Inbox::default();
        for n in 0..CALLS_MAX as u64 {
            inbox.put_call(read(n)).unwrap();
        }
        assert!(matches!(inbox.put_call(read(0)), Err(Refusal::Unavailable(_))));
        assert_eq!(inbox.next().await.len(), BATCH_OF_CALLS_MAX);
        assert!(inbox.put_call(read(0)).is_ok(), "there is room again");
        inbox.close();
        inbox.put(Event::Tick);
        assert!(inbox.lock().first.is_empty() && inbox.lock().calls.is_empty());
        tokio::time::timeout(Duration::from_secs(20), inbox.put_peer(eraftpb::Message::default())).await.expect("nobody waits");
    }
}
