//! The session with the leader: hello, assignments in, statuses and heartbeats
//! out, and a new one whenever it ends.
//!
//! Managers are tried in turn, the leader first where it is known; a manager that
//! is not the leader says so and names it. Between two attempts there is a pause
//! that doubles, with jitter, up to two seconds.
//!
//! As long as the node's network daemon has never answered, a session says why no
//! task can be taken, and the core hears of no session: the manager assigns nothing
//! in it, so tasks that a restarted daemon found go on as they do without one.

use crate::connect::Managers;
use crate::drive::{Inbox, lock};
use crate::images::Fetches;
use crate::logs::Publisher;
use crate::network::Network;
use crate::probe::Prober;
use crate::underlay;
use crate::values::Values;
use prost::Message as _;
use skep_agent_core::{Agent, Event, UnreadableTask};
use skep_host::clock;
use skep_model::assignment::{SessionInfo, StatusUpdate};
use skep_model::node::NodeDescription;
use skep_model::place::PlaceFaults;
use skep_model::version::{PROTOCOL_MAX, PROTOCOL_MIN};
use skep_model::{NodeId, SessionId, Time};
use skep_proto::SESSION_MESSAGE_MAX;
use skep_proto::assignment::{Assembler, LeftOut, Link};
use skep_proto::v1::dispatcher_client::DispatcherClient;
use skep_proto::v1::manager_message::Message;
use skep_proto::v1::{self, AgentMessage, ManagerMessage, agent_message};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use zeroize::Zeroizing;

/// The first pause between two attempts.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long a manager may take to begin a session.
const BEGIN_MAX: Duration = Duration::from_secs(5);
/// How long the network daemon, started beside this one, may take to answer before
/// the manager is told that it does not.
const NETD_MAX: Duration = Duration::from_secs(2);
/// Answers that wait for a session.
const UNSENT_MAX: usize = 256;
/// How long a manager may take to hear that this node leaves.
const GOODBYE_MAX: Duration = Duration::from_secs(2);
/// Messages that wait to be sent.
const QUEUE_MAX: usize = 256;
/// The longest hello, in bytes: a message, less the frame around it.
const HELLO_MAX: usize = SESSION_MESSAGE_MAX - 64 * 1024;

/// What the loop wants said; kept across sessions.
#[derive(Clone, Debug)]
pub struct Outbox(mpsc::UnboundedSender<Outgoing>);

/// Something to be said or done by the session.
#[derive(Debug)]
pub enum Outgoing {
    /// Statuses that changed.
    Report(Vec<StatusUpdate>),
    /// How a fetched image went.
    ImageResult(v1::ImageResult),
    /// What this node reaches of others.
    ProbeResult(v1::ProbeResult),
    /// The node's network has come as far as this link of a session's chain.
    Programmed(SessionId, u64),
    /// Open a new session.
    Reset(String),
}

impl Outbox {
    /// An outbox and the end that sessions read.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Outgoing>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Statuses changed.
    pub fn report(&self, updates: Vec<StatusUpdate>) {
        let _ = self.0.send(Outgoing::Report(updates));
    }

    /// The node's network holds every link of that session's chain up to `version`.
    pub fn programmed(&self, session: SessionId, version: u64) {
        let _ = self.0.send(Outgoing::Programmed(session, version));
    }

    /// The chain of assignments is broken.
    pub fn reset(&self, reason: String) {
        let _ = self.0.send(Outgoing::Reset(reason));
    }

    /// An offered image was loaded, or not.
    pub fn image_result(&self, result: v1::ImageResult) {
        let _ = self.0.send(Outgoing::ImageResult(result));
    }

    /// The leader's question was answered.
    pub fn probe_result(&self, result: v1::ProbeResult) {
        let _ = self.0.send(Outgoing::ProbeResult(result));
    }
}

/// Answers to what a leader asked. They outlive the session in which they were asked for:
/// the leader waits for them.
#[derive(Debug, Default)]
pub struct Unsent(Mutex<VecDeque<agent_message::Message>>);

impl Unsent {
    /// Keeps an answer; the oldest goes where there are too many. All else is said anew
    /// by the next hello.
    fn keep(&self, said: Outgoing) {
        match said {
            Outgoing::ImageResult(result) => self.add(agent_message::Message::ImageResult(result)),
            Outgoing::ProbeResult(result) => self.add(agent_message::Message::ProbeResult(result)),
            Outgoing::Report(_) | Outgoing::Programmed(..) | Outgoing::Reset(_) => {}
        }
    }

    fn keep_message(&self, unsent: AgentMessage) {
        unsent.message.into_iter().for_each(|message| self.add(message));
    }

    fn add(&self, message: agent_message::Message) {
        let mut kept = self.lock();
        if kept.len() >= UNSENT_MAX {
            kept.pop_front();
        }
        kept.push_back(message);
    }

    fn take(&self) -> VecDeque<agent_message::Message> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<agent_message::Message>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Everything a session needs.
#[derive(Debug)]
pub struct Sessions {
    pub(crate) node: NodeId,
    pub(crate) description: NodeDescription,
    pub(crate) managers: Arc<Managers>,
    pub(crate) agent: Arc<Mutex<Agent>>,
    pub(crate) inbox: Inbox,
    pub(crate) network: Arc<Network>,
    pub(crate) values: Arc<Values>,
    pub(crate) logs: Publisher,
    pub(crate) fetches: Fetches,
    pub(crate) prober: Prober,
    pub(crate) info: watch::Sender<Option<SessionInfo>>,
    /// Why the newest attempt at a session was refused; `None` while there is one.
    pub(crate) refusal: watch::Sender<Option<Status>>,
    /// Answers that no session has taken yet, oldest first.
    pub(crate) unsent: Unsent,
    /// The node leaves the cluster: the last session ends with a goodbye.
    pub(crate) is_leaving: Arc<AtomicBool>,
}

/// Why a session ended.
type Ended = String;

impl Sessions {
    /// Keeps a session open until `stop`.
    pub async fn run(self, mut outgoing: mpsc::UnboundedReceiver<Outgoing>, stop: CancellationToken) {
        let mut standing = self.network.standing();
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tokio::time::timeout(NETD_MAX, standing.wait_for(|standing| standing.has_answered)) => {}
        }
        let mut pause = PAUSE_MIN;
        loop {
            let begun = std::time::Instant::now();
            let ended = tokio::select! {
                () = self.cut_off(&stop) => break,
                ended = self.session(&mut outgoing, &stop) => ended,
            };
            self.inbox.put(Event::SessionDown);
            if stop.is_cancelled() {
                break;
            }
            // One that lasted was a good one: the next is tried at once.
            pause = if begun.elapsed() > PAUSE_MAX { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
            tracing::info!(reason = %ended, "no session with a manager");
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(jittered(pause)) => {}
            }
        }
    }

    /// When a session ends, whatever it is at; one that leaves is given time for its goodbye.
    async fn cut_off(&self, stop: &CancellationToken) {
        stop.cancelled().await;
        if self.is_leaving.load(Ordering::Relaxed) {
            tokio::time::sleep(GOODBYE_MAX).await;
        }
    }

    async fn session(&self, outgoing: &mut mpsc::UnboundedReceiver<Outgoing>, stop: &CancellationToken) -> Ended {
        let Some(address) = self.managers.next() else { return "no manager is known".into() };
        let channel = self.managers.channel(&address);
        let mut client = DispatcherClient::new(channel)
            .max_decoding_message_size(SESSION_MESSAGE_MAX)
            .max_encoding_message_size(SESSION_MESSAGE_MAX);
        let (sender, stream) = mpsc::channel(QUEUE_MAX);
        // What was said of an earlier session is in the statuses of this hello, except answers.
        while let Ok(said) = outgoing.try_recv() {
            self.unsent.keep(said);
        }
        let not_ready = self.not_ready();
        let is_ready = not_ready.is_empty();
        let _ = sender.try_send(agent_message(agent_message::Message::Hello(self.hello(not_ready))));
        let begun = tokio::time::timeout(BEGIN_MAX, client.session(ReceiverStream::new(stream))).await;
        let mut messages = match begun {
            Err(_) => {
                self.managers.failed(&address);
                return format!("manager {address} did not answer within {} s", BEGIN_MAX.as_secs());
            }
            Ok(Err(status)) => {
                self.managers.refused(&address, &status);
                self.refusal.send_replace(Some(status.clone()));
                return format!("manager {address}: {}", status.message());
            }
            Ok(Ok(response)) => response.into_inner(),
        };
        let ended = tokio::select! {
            ended = self.converse(is_ready, &mut messages, sender, outgoing, stop) => ended,
            () = self.until_ready(), if !is_ready => "the node is ready now".into(),
        };
        self.managers.failed(&address);
        format!("the session with manager {address} ended: {ended}")
    }

    /// Why this node can take no task yet; empty if it can. One that could once can
    /// later, too: what it was told is in the kernel, and tasks wait for the rest.
    fn not_ready(&self) -> String {
        let standing = self.network.standing();
        let standing = standing.borrow();
        let trouble = standing.trouble.as_deref().filter(|_| !standing.has_answered);
        skep_model::task::cut(trouble.unwrap_or_default())
    }

    async fn until_ready(&self) {
        // The network outlives every session: it cannot be closed.
        let _ = self.network.standing().wait_for(|standing| standing.has_answered).await;
    }

    async fn converse(
        &self,
        is_ready: bool,
        messages: &mut Streaming<ManagerMessage>,
        sender: mpsc::Sender<AgentMessage>,
        outgoing: &mut mpsc::UnboundedReceiver<Outgoing>,
        stop: &CancellationToken,
    ) -> Ended {
        let session = SessionId::from_random(random());
        let (mut timer, mut period, mut term) = (clock::Timer::new(), Duration::from_millis(500), 0);
        let mut beat_at = clock::boot();
        // A new session says it anew.
        let mut faults = self.network.faults();
        faults.mark_changed();
        let mut assembler = Assembler::default();
        for answer in self.unsent.take() {
            if sender.send(agent_message(answer)).await.is_err() {
                return "answers cannot be sent".into();
            }
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    // A daemon that is only restarted says nothing: its containers go on.
                    if self.is_leaving.load(Ordering::Relaxed) {
                        say_goodbye(sender, messages).await;
                    }
                    return "the daemon is stopping".into();
                }
                () = timer.until(Some(beat_at)) => {
                    beat_at = clock::boot() + period;
                    if sender.try_send(agent_message(agent_message::Message::Heartbeat(v1::Heartbeat {}))).is_err() {
                        return "heartbeats cannot be sent".into();
                    }
                }
                // Never `None` in vain: the network outlives every session.
                Ok(()) = faults.changed() => {
                    if say_faults(&mut faults, &sender).await.is_err() {
                        return "what does not work of the network cannot be sent".into();
                    }
                }
                next = outgoing.recv() => match next {
                    Some(Outgoing::Reset(reason)) => return reason,
                    Some(Outgoing::Report(updates)) => {
                        let statuses = v1::Statuses::from(&updates[..]);
                        if sender.send(agent_message(agent_message::Message::Statuses(statuses))).await.is_err() {
                            return "statuses cannot be sent".into();
                        }
                    }
                    // What was said of another session's chain is not true of this one's.
                    Some(Outgoing::Programmed(of, _)) if of != session => {}
                    Some(Outgoing::Programmed(_, version)) => {
                        // A version counts but for the faults that were said before it.
                        if faults.has_changed().unwrap_or(false) && say_faults(&mut faults, &sender).await.is_err() {
                            return "what does not work of the network cannot be sent".into();
                        }
                        let programmed = v1::Programmed { version };
                        if sender.send(agent_message(agent_message::Message::Programmed(programmed))).await.is_err() {
                            return "the network's progress cannot be sent".into();
                        }
                    }
                    Some(answer @ (Outgoing::ImageResult(_) | Outgoing::ProbeResult(_))) => {
                        self.unsent.keep(answer);
                        for answer in self.unsent.take() {
                            if let Err(unsent) = sender.send(agent_message(answer)).await {
                                self.unsent.keep_message(unsent.0);
                                return "answers cannot be sent".into();
                            }
                        }
                    }
                    None => return "the agent is stopping".into(),
                },
                message = messages.message() => match message {
                    Err(status) => return status.message().into(),
                    Ok(None) => return "the manager ended it".into(),
                    Ok(Some(ManagerMessage { message: None })) => {}
                    Ok(Some(ManagerMessage { message: Some(message) })) => match message {
                        Message::Info(info) => match SessionInfo::try_from(info) {
                            Ok(info) => {
                                (period, beat_at) = (info.heartbeat_period, clock::boot());
                                self.network.learn(info.data_path_port, info.isolate_nodes);
                                if !is_ready {
                                    // The core has no session.
                                } else if term != info.term {
                                    term = info.term;
                                    self.inbox.put(Event::SessionUp { session, info: Box::new(info.clone()) });
                                } else {
                                    self.inbox.put(Event::Told { info: Box::new(info.clone()) });
                                }
                                self.refusal.send_replace(None);
                                self.managers.learn(&info.managers);
                                self.info.send_replace(Some(info));
                            }
                            Err(error) => return error.to_string(),
                        },
                        Message::Assignments(part) => match assembler.push(part) {
                            Ok(Some(link)) => self.assigned(term, link),
                            Ok(None) => {}
                            Err(error) => return error.to_string(),
                        },
                        Message::LogSubscribe(request) => self.logs.subscribe(request),
                        Message::LogUnsubscribe(request) => self.logs.unsubscribe(&request.subscription_id),
                        Message::ImageOffer(offer) => self.fetches.fetch(offer),
                        Message::Probe(probe) => self.prober.probe(probe),
                        Message::Close(close) => return close.reason,
                    },
                },
            }
        }
    }

    /// Keeps the values, then tells the core which are here, and what cannot be read.
    fn assigned(&self, term: u64, Link { assignments, values, left_out }: Link) {
        for ((id, version), value) in values.secrets {
            self.values.put_secret(id, version, value.take());
        }
        for ((id, version), value) in values.configs {
            self.values.put_config(id, version, Zeroizing::new(value));
        }
        let unreadable = unreadable(left_out);
        self.inbox.put(Event::Assignments { term, assignments: Box::new(assignments), unreadable });
    }

    fn hello(&self, not_ready: String) -> v1::Hello {
        let mut description = self.description.clone();
        // What the node itself uses may have changed since it was started.
        description.underlay = description.underlay.map(|known| underlay::of(known.address));
        let hello = skep_model::assignment::Hello {
            node: self.node,
            description,
            statuses: lock(&self.agent).statuses(),
            address: String::new(),
            certificate_expires: Time::ZERO,
            not_ready,
        };
        let mut message = fitted(v1::Hello::from(&hello));
        message.protocol_min = PROTOCOL_MIN;
        message.protocol_max = PROTOCOL_MAX;
        message
    }
}

/// The tasks among what a link left out. All is logged: of a task that runs already, and
/// of what is no task, this is the only place that says it.
fn unreadable(left_out: Vec<LeftOut>) -> Vec<UnreadableTask> {
    left_out
        .into_iter()
        .filter_map(|LeftOut { error, task }| {
            let (id, observed) = task.unzip();
            tracing::warn!(task = id.map(tracing::field::display), %error, "the manager sent what this node cannot read: it is left out");
            Some(UnreadableTask { id: id?, observed: observed?, error: error.to_string() })
        })
        .collect()
}

/// A hello that fits a message: a node with very many tasks that failed says less of each,
/// since without a session it could say nothing.
fn fitted(mut hello: v1::Hello) -> v1::Hello {
    let shorten: [fn(&mut v1::TaskStatus); 2] = [|status| status.log_tail.clear(), |status| status.error.clear()];
    for shorten in shorten {
        if hello.encoded_len() <= HELLO_MAX {
            break;
        }
        tracing::warn!(
            tasks = hello.statuses.len(),
            "the statuses of all tasks are too long for one message; they are shortened"
        );
        hello.statuses.iter_mut().filter_map(|update| update.status.as_mut()).for_each(shorten);
    }
    hello
}

/// Says what of the node's network does not work, once that is known.
async fn say_faults(
    faults: &mut watch::Receiver<Option<PlaceFaults>>,
    sender: &mpsc::Sender<AgentMessage>,
) -> Result<(), mpsc::error::SendError<AgentMessage>> {
    let known = faults.borrow_and_update().as_ref().map(v1::PlaceFaults::from);
    match known {
        Some(known) => sender.send(agent_message(agent_message::Message::Faults(known))).await,
        None => Ok(()),
    }
}

/// Tells the manager that this node leaves, and waits until it has read that: it ends
/// its stream then.
async fn say_goodbye(sender: mpsc::Sender<AgentMessage>, messages: &mut Streaming<ManagerMessage>) {
    let said = async {
        if sender.send(agent_message(agent_message::Message::Goodbye(v1::Goodbye {}))).await.is_ok() {
            drop(sender);
            while let Ok(Some(_)) = messages.message().await {}
        }
    };
    if tokio::time::timeout(GOODBYE_MAX, said).await.is_err() {
        tracing::warn!("the manager did not hear in time that this node leaves; it finds out by its silence");
    }
}

fn agent_message(message: agent_message::Message) -> AgentMessage {
    AgentMessage { message: Some(message) }
}

/// Between half of and the whole pause, so that nodes do not knock together.
fn jittered(pause: Duration) -> Duration {
    let [first, ..] = random();
    pause / 2 + (pause / 2).mul_f64(f64::from(first) / f64::from(u8::MAX))
}

pub(crate) fn random() -> [u8; 16] {
    skep_host::chance::bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::{TaskId, TaskState};
    use skep_proto::v1::assignment_change::Change;

    /// The session goes on: what of a link cannot be read is its task's error, or is only
    /// logged, and the rest of the link is here.
    #[test]
    fn a_task_that_does_not_decode_is_named_and_the_rest_of_its_link_goes_on() {
        let id = TaskId::from_random([1; 16]);
        let changes = [
            Some(Change::PutTask(v1::Task { id: id.to_string(), ..v1::Task::default() })),
            Some(Change::PutTask(v1::Task { id: "?".into(), ..v1::Task::default() })),
            None,
            Some(Change::MayStop(id.to_string())),
        ];
        let changes = changes.into_iter().map(|change| v1::AssignmentChange { change }).collect();
        let part = v1::Assignments { is_complete: true, applies_to: 0, results_in: 1, changes, continues: false };
        let link = Assembler::default().push(part).expect("the session goes on").expect("it is whole");
        assert_eq!((link.assignments.changes.len(), link.left_out.len()), (1, 3));
        let named = unreadable(link.left_out);
        assert_eq!(named.iter().map(|task| (task.id, task.observed)).collect::<Vec<_>>(), [(id, TaskState::New)]);
        assert!(named[0].error.contains("changes[0].put_task"), "{}", named[0].error);
    }

    /// A node has its session however many of its tasks failed with long words.
    #[test]
    fn a_hello_fits_a_message() {
        let long = "é".repeat(skep_model::task::MESSAGE_MAX / 2);
        let status =
            v1::TaskStatus { error: long.clone(), log_tail: vec![long; 10], message: "failed".into(), ..Default::default() };
        let update = v1::StatusUpdate { task_id: "0".repeat(25), status: Some(status) };
        for (n_tasks, has_tails, has_errors) in [(300, true, true), (2_000, false, true), (20_000, false, false)] {
            let hello = fitted(v1::Hello { statuses: vec![update.clone(); n_tasks], ..Default::default() });
            assert!(hello.encoded_len() <= HELLO_MAX, "{n_tasks} tasks: {} bytes", hello.encoded_len());
            assert_eq!(hello.statuses.len(), n_tasks);
            let of_one = hello.statuses[n_tasks / 2].status.as_ref().expect("a status");
            assert_eq!((of_one.log_tail.is_empty(), of_one.error.is_empty()), (!has_tails, !has_errors), "{n_tasks} tasks");
            assert_eq!(of_one.message, "failed");
        }
    }

    /// The leader waits for an answer, whichever session brings it.
    #[test]
    fn answers_outlive_their_session_and_nothing_else_does() {
        let unsent = Unsent::default();
        let image = v1::ImageResult { transfer_id: "a".into(), done: true, ..v1::ImageResult::default() };
        let probe = v1::ProbeResult { probe_id: "b".into(), ..v1::ProbeResult::default() };
        unsent.keep(Outgoing::Report(Vec::new()));
        unsent.keep(Outgoing::ImageResult(image.clone()));
        unsent.keep(Outgoing::Reset("again".into()));
        unsent.keep(Outgoing::ProbeResult(probe.clone()));
        let answers: Vec<agent_message::Message> = unsent.take().into();
        assert_eq!(answers, [agent_message::Message::ImageResult(image.clone()), agent_message::Message::ProbeResult(probe)]);
        assert!(unsent.take().is_empty());
        for _ in 0..2 * UNSENT_MAX {
            unsent.keep(Outgoing::ImageResult(image.clone()));
        }
        assert_eq!(unsent.take().len(), UNSENT_MAX);
    }
}
