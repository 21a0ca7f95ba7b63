//! A few managers joined by hand, message by message. What many do under faults
//! is the simulator's business; here is what one must do at one moment.

use super::*;
use crate::store::codec;
use crate::timing;
use crate::transaction::Transaction;
use raft::eraftpb::{ConfState, Entry, HardState, Message, MessageType};
use skep_model::assignment::Hello;
use skep_model::cluster::{Cluster, ClusterPlan, ClusterSpec};
use skep_model::network::{NetworkSpec, Pool};
use skep_model::node::{Availability, ManagerStatus, Node, NodeDescription, NodePlan, NodeSpec, NodeState, NodeStatus, Role};
use skep_model::request::{Mutation, Outcome};
use skep_model::service::Annotations;
use skep_model::{ClusterId, Meta, Refusal, RequestId, Section};
use std::time::Duration;

const START: Time = Time::from_millis(1_000_000);

fn config(raft_id: u64) -> Config {
    let peers = (1..=3).map(|id| (id, format!("m{id}:2377"))).collect();
    Config {
        node: NodeId::from_random([raft_id as u8; 16]),
        raft_id,
        address: String::new(),
        format_max: 1,
        peers,
        planted_panic: None,
    }
}

/// What a member of a cluster of three has on disk before anything happened.
fn fresh() -> Recovered {
    Recovered {
        hard_state: HardState { term: 1, commit: 1, ..HardState::default() },
        membership: ConfState { voters: vec![1, 2, 3], ..ConfState::default() },
        membership_index: 1,
        ..Recovered::default()
    }
}

struct Cluster3 {
    managers: Vec<Manager>,
    /// The one whose disk takes everything and says nothing.
    stalled: Option<usize>,
    now: Time,
    seen: Vec<String>,
}

impl Cluster3 {
    fn new(seed: u64) -> Self {
        let managers = (1..=3).map(|id| Manager::new(config(id), seed + id, fresh(), START)).collect();
        Self { managers, stalled: None, now: START, seen: Vec::new() }
    }

    /// Lets time pass with a perfect network and disk.
    fn run(&mut self, length: Duration) {
        let end = self.now + length;
        while self.now < end {
            self.now = self.now + Duration::from_millis(10);
            for number in 0..3 {
                self.give(number, Event::Tick);
            }
        }
    }

    fn give(&mut self, number: usize, event: Event) {
        let mut waiting = std::collections::VecDeque::from([(number, event)]);
        while let Some((number, event)) = waiting.pop_front() {
            self.managers[number].handle(self.now, event);
            for action in self.managers[number].take_actions() {
                match action {
                    Action::Persist(_) if self.stalled == Some(number) => {}
                    Action::Persist(persist) => waiting.push_back((number, Event::Persisted { n: persist.n })),
                    Action::SendPeer { raft_id, message, .. } => waiting.push_back((raft_id as usize - 1, Event::Peer(message))),
                    Action::LeaderChanged { term, is_self: true, .. } => {
                        self.seen.push(format!("{:?} manager {number} leads in term {term}", self.now));
                    }
                    Action::Reply { ticket, .. } => self.seen.push(format!("{ticket:?} is answered")),
                    _ => {}
                }
            }
        }
    }

    fn leader(&self) -> usize {
        self.managers.iter().position(|manager| manager.status().is_ready).expect("somebody leads")
    }
}

fn elections(seed: u64) -> Vec<String> {
    let mut cluster = Cluster3::new(seed);
    for _ in 0..5 {
        cluster.run(Duration::from_secs(3));
        let leader = cluster.leader();
        cluster.give(leader, Event::StepDown);
        // A leader that hands over says so itself; the others elect at random times.
        cluster.managers[leader] =
            Manager::new(config(leader as u64 + 1), seed + 100, stopped(&cluster.managers[leader]), cluster.now);
    }
    cluster.seen
}

/// What a manager that stops with everything synced leaves on disk.
fn stopped(manager: &Manager) -> Recovered {
    let status = manager.status();
    let entries = (status.first..=status.last).filter_map(|index| manager.log_entry(index).cloned()).collect();
    let hard_state = HardState { term: status.term, vote: 0, commit: status.commit, ..HardState::default() };
    Recovered { hard_state, entries, ..fresh() }
}

#[test]
fn the_same_seed_has_the_same_elections() {
    let first = elections(1);
    assert!(first.len() >= 5, "{first:?}");
    assert_eq!(first, elections(1));
    let others: BTreeSet<_> = (2..8).map(elections).collect();
    assert!(others.len() > 1, "other seeds have other elections");
}

#[test]
fn elections_are_decided_within_two_timeouts() {
    for seed in 0..20 {
        let mut cluster = Cluster3::new(seed * 10);
        cluster.run(timing::TICK * (4 * timing::ELECTION_TICKS as u32));
        cluster.leader();
    }
}

fn append(term: u64, index: u64, data: Vec<u8>) -> Event {
    let entry = Entry { index: index + 1, term, data: data.into(), ..Entry::default() };
    let mut message = Message { from: 2, to: 1, term, index, log_term: 1, commit: index + 1, ..Message::default() };
    message.set_msg_type(MessageType::MsgAppend);
    message.set_entries(vec![entry].into());
    Event::Peer(Box::new(message))
}

fn answers(actions: &[Action]) -> Vec<u64> {
    let index = |action: &Action| match action {
        Action::SendPeer { message, .. } if message.get_msg_type() == MessageType::MsgAppendResponse => Some(message.index),
        _ => None,
    };
    actions.iter().filter_map(index).collect()
}

fn batches(actions: &[Action]) -> Vec<u64> {
    actions.iter().filter_map(|action| if let Action::Persist(persist) = action { Some(persist.n) } else { None }).collect()
}

#[test]
fn an_acknowledgement_leaves_only_when_everything_before_it_is_durable() {
    let mut manager = Manager::new(config(1), 7, fresh(), START);
    let first = batches(&manager.take_actions());
    manager.handle(START, append(5, 1, Vec::new()));
    let actions = manager.take_actions();
    let (second, early) = (batches(&actions), answers(&actions));
    assert_eq!((first.as_slice(), second.as_slice(), early.as_slice()), (&[1][..], &[2][..], &[][..]));
    manager.handle(START, Event::Persisted { n: 1 });
    assert!(answers(&manager.take_actions()).is_empty());
    manager.handle(START, Event::Persisted { n: 2 });
    assert_eq!(answers(&manager.take_actions()), [2]);
}

/// What a disk has yet to take is bounded: raft is asked for nothing beyond it, and what
/// came meanwhile is one batch.
#[test]
fn batches_that_wait_for_the_disk_are_bounded() {
    let mut manager = Manager::new(config(1), 7, fresh(), START);
    let mut seen = batches(&manager.take_actions());
    for index in 1..2_000 {
        let entry = Entry { index: index + 1, term: 5, ..Entry::default() };
        let log_term = if index == 1 { 1 } else { 5 };
        let mut message = Message { from: 2, to: 1, term: 5, index, log_term, commit: 1, ..Message::default() };
        message.set_msg_type(MessageType::MsgAppend);
        message.set_entries(vec![entry].into());
        manager.handle(START, Event::Peer(Box::new(message)));
        seen.extend(batches(&manager.take_actions()));
    }
    assert_eq!(seen.len(), crate::consensus::BATCHES_IN_FLIGHT_MAX);
    manager.handle(START, Event::Persisted { n: *seen.last().expect("there are some") });
    let actions = manager.take_actions();
    assert_eq!(batches(&actions).len(), 1, "the rest is one batch");
    manager.handle(START, Event::Persisted { n: batches(&actions)[0] });
    assert_eq!(answers(&manager.take_actions()).into_iter().max(), Some(2_000), "nothing is lost");
}

/// Another's disk may be well.
#[test]
fn a_leader_whose_disk_does_not_answer_hands_its_leadership_over() {
    let mut cluster = Cluster3::new(5);
    cluster.run(Duration::from_secs(2));
    let before = cluster.leader();
    cluster.stalled = Some(before);
    cluster.give(before, Event::Request { ticket: Ticket(1), request: RequestId([1; 16]), mutation: bootstrap() });
    cluster.run(timing::DISK_STALL_MAX - Duration::from_millis(200));
    assert_eq!(cluster.leader(), before, "it may yet come");
    cluster.run(Duration::from_secs(2));
    assert_ne!(cluster.leader(), before, "{:?}", cluster.seen);
}

#[test]
fn a_format_from_the_future_stops_the_manager_with_a_sentence() {
    let mut manager = Manager::new(config(1), 7, fresh(), START);
    manager.handle(START, append(5, 1, codec::encode(&Transaction::new(START), 9)));
    let n = *batches(&manager.take_actions()).last().expect("the entry is persisted first");
    manager.handle(START, Event::Persisted { n });
    let actions = manager.take_actions();
    let sentence =
        actions.iter().find_map(|action| if let Action::Halt { sentence } = action { Some(sentence.clone()) } else { None });
    expect_test::expect![[r#"
        Some(
            "entry 2 of the log cannot be applied: it has format 9 and this release reads formats up to 1: upgrade skep on this manager",
        )
    "#]]
    .assert_debug_eq(&sentence);
    assert_eq!(manager.next_wakeup(), None);
}

#[test]
#[should_panic(expected = "acknowledged entries are lost")]
fn a_log_that_lost_its_end_is_not_continued() {
    let hard_state = HardState { term: 3, commit: 9, ..HardState::default() };
    Manager::new(config(1), 7, Recovered { hard_state, ..fresh() }, START);
}

#[test]
fn a_snapshot_that_the_log_was_not_reset_for_wins_over_what_contradicts_it() {
    let store = Store::empty(5);
    let metadata = eraftpb::SnapshotMetadata { index: 5, term: 4, ..eraftpb::SnapshotMetadata::default() };
    let entries = |term| (2..=8).map(|index| Entry { index, term, ..Entry::default() }).collect::<Vec<_>>();
    for (term, last) in [(2, 5), (4, 8)] {
        let snapshot = Some((metadata.clone(), SnapshotContent { store: store.clone() }));
        let recovered = Recovered { snapshot, entries: entries(term), membership_index: 6, ..fresh() };
        let status = Manager::new(config(1), 7, recovered, START).status();
        assert_eq!((status.applied, status.commit, status.last, status.term), (5, 5, last, 4));
    }
}

fn bootstrap() -> Box<Mutation> {
    let cluster = Cluster {
        id: ClusterId::from_random([9; 16]),
        meta: Meta::default(),
        spec: Section::new(ClusterSpec::default()),
        plan: Section::new(ClusterPlan { format: 1, ..ClusterPlan::default() }),
    };
    let manager = ManagerStatus { raft_id: 1, address: "m1:2377".into(), format_max: 1, unreachable: false };
    let node = Node {
        id: config(1).node,
        meta: Meta::default(),
        spec: Section::new(NodeSpec { desired_role: Role::Manager, ..NodeSpec::default() }),
        description: Section::new(NodeDescription::default()),
        status: Section::new(NodeStatus::default()),
        plan: Section::new(NodePlan { role: Role::Manager, manager: Some(manager), ..NodePlan::default() }),
    };
    Box::new(Mutation::Bootstrap { cluster: Box::new(cluster), node: Box::new(node) })
}

/// Hands events to a manager whose disk is perfect; what else it wants done.
fn actions(manager: &mut Manager, now: Time, event: Event) -> Vec<Action> {
    let (mut events, mut others) = (std::collections::VecDeque::from([event]), Vec::new());
    while let Some(event) = events.pop_front() {
        manager.handle(now, event);
        for action in manager.take_actions() {
            match action {
                Action::Persist(persist) => events.push_back(Event::Persisted { n: persist.n }),
                other => others.push(other),
            }
        }
    }
    others
}

/// The same; what it replied.
fn replies(manager: &mut Manager, now: Time, event: Event) -> Vec<(Ticket, Result<Outcome, Refusal>)> {
    let reply = |action| if let Action::Reply { ticket, result } = action { Some((ticket, result)) } else { None };
    actions(manager, now, event).into_iter().filter_map(reply).collect()
}

fn founded() -> (Manager, Time) {
    let mut manager = Manager::new(config(1), 7, Recovered::bootstrap(1), START);
    let mut now = START;
    while !manager.status().is_ready {
        now = now + timing::TICK;
        replies(&mut manager, now, Event::Tick);
        assert!(now.since(START) < Duration::from_secs(5), "one manager elects itself");
    }
    let mutation = bootstrap();
    let done = replies(&mut manager, now, Event::Request { ticket: Ticket(1), request: RequestId([1; 16]), mutation });
    assert!(matches!(done[..], [(Ticket(1), Ok(_))]), "{done:?}");
    (manager, now)
}

#[test]
fn a_repeat_is_answered_as_the_first_call_was_and_waits_for_it_while_it_is_under_way() {
    let (mut manager, now) = founded();
    let request = RequestId([2; 16]);
    let event = |ticket| {
        let node = config(1).node.to_string();
        let spec = NodeSpec { desired_role: Role::Manager, labels: [("a".into(), "b".into())].into(), ..NodeSpec::default() };
        Event::Request { ticket: Ticket(ticket), request, mutation: Box::new(Mutation::UpdateNode { node, expect: None, spec }) }
    };
    manager.handle(now, event(2));
    manager.handle(now, event(3));
    let both = replies(&mut manager, now, Event::Tick);
    let [(Ticket(2), Ok(first)), (Ticket(3), Ok(second))] = both[..] else { panic!("{both:?}") };
    assert_eq!(first, second);
    assert_eq!(replies(&mut manager, now, event(4)), [(Ticket(4), Ok(first))]);
}

#[test]
fn a_refusal_that_was_never_confirmed_is_decided_anew_for_a_repeat() {
    let mut cluster = Cluster3::new(5);
    cluster.run(Duration::from_secs(2));
    let number = cluster.leader();
    let mut now = cluster.now;
    let asked = |ticket| {
        let mutation = Box::new(Mutation::RemoveNetwork { network: "none".into() });
        Event::Request { ticket: Ticket(ticket), request: RequestId([6; 16]), mutation }
    };
    // It is refused on the store as it is, which a majority has yet to confirm.
    assert_eq!(replies(&mut cluster.managers[number], now, asked(1)), []);
    // The manager stands still for longer than anybody waits.
    now = now + timing::REQUEST_TIMEOUT * 2;
    assert_eq!(replies(&mut cluster.managers[number], now, Event::Tick).len(), 1, "the first one is told that nobody knows");
    cluster.now = now;
    cluster.seen.clear();
    cluster.give(number, asked(2));
    cluster.run(Duration::from_millis(300));
    assert_eq!(cluster.seen, ["Ticket(2) is answered"]);
}

#[test]
fn the_last_manager_is_not_demoted() {
    let (mut manager, now) = founded();
    let mutation = Box::new(Mutation::Leave { node: config(1).node });
    let refused = replies(&mut manager, now, Event::Request { ticket: Ticket(5), request: RequestId([5; 16]), mutation });
    let [(_, Err(refusal))] = &refused[..] else { panic!("{refused:?}") };
    assert_eq!(refusal.to_string(), "attempting to demote the last manager of the swarm");
}

#[test]
fn a_request_that_no_majority_takes_is_answered_in_time() {
    let mut cluster = Cluster3::new(3);
    cluster.run(Duration::from_secs(2));
    let number = cluster.leader();
    let manager = &mut cluster.managers[number];
    let mutation = bootstrap();
    manager.handle(cluster.now, Event::Request { ticket: Ticket(1), request: RequestId([1; 16]), mutation });
    let mut answered = None;
    let mut now = cluster.now;
    while answered.is_none() && now.since(cluster.now) < timing::REQUEST_TIMEOUT * 2 {
        now = now + timing::TICK;
        answered = replies(manager, now, Event::Tick).pop();
    }
    // Alone it ceases to lead, and says that it does not know.
    assert_eq!(answered, Some((Ticket(1), Err(Refusal::Aborted))));
    assert!(now.since(cluster.now) < timing::REQUEST_TIMEOUT, "check-quorum is quicker than the deadline");
}

#[test]
fn a_ready_node_that_loses_its_place_in_the_mesh_says_so_at_once() {
    let (mut manager, now) = founded();
    let ask = |manager: &mut Manager, n: u8, mutation| {
        let event = Event::Request { ticket: Ticket(n.into()), request: RequestId([n; 16]), mutation: Box::new(mutation) };
        actions(manager, now, event)
    };
    let node = NodeId::from_random([2; 16]);
    let (role, availability, hostname) = (Role::Worker, Availability::Active, "w1".to_owned());
    ask(
        &mut manager,
        2,
        Mutation::RegisterNode {
            node,
            role,
            availability,
            hostname: hostname.clone(),
            certificate_expires: now,
            addresses: Default::default(),
        },
    );
    let description = NodeDescription { hostname, ..NodeDescription::default() };
    let (address, not_ready) = ("10.0.0.2".into(), String::new());
    let hello = Box::new(Hello { node, description, statuses: Vec::new(), address, certificate_expires: now, not_ready });
    actions(&mut manager, now, Event::SessionOpened { session: SessionId::from_random([2; 16]), hello });
    let status = |manager: &Manager| manager.store.node(node).expect("it has joined").status.value.clone();
    assert_eq!((status(&manager).state, status(&manager).message.as_str()), (NodeState::Ready, ""));
    ask(&mut manager, 3, Mutation::RemoveNetwork { network: "ingress".into() });
    // Two addresses: the gateway's and the manager's.
    let pools = vec![Pool { subnet: "192.168.7.0/30".parse().expect("a subnet"), range: None, gateway: None }];
    let annotations = Annotations { name: "small".into(), ..Annotations::default() };
    let spec = NetworkSpec { annotations, driver: "overlay".into(), ingress: true, pools, ..NetworkSpec::default() };
    let wanted = ask(&mut manager, 4, Mutation::CreateNetwork { spec });
    let why = "is not in the routing mesh: no available address on network small (192.168.7.0/30)";
    let warning = |action: &Action| if let Action::Warn { sentence } = action { Some(sentence.clone()) } else { None };
    assert_eq!(wanted.iter().filter_map(warning).collect::<Vec<_>>(), [format!("node w1 ({node}) {why}")]);
    assert_eq!((status(&manager).state, status(&manager).message.as_str()), (NodeState::Ready, why));
    ask(&mut manager, 5, Mutation::RemoveNetwork { network: "small".into() });
    assert_eq!((status(&manager).state, status(&manager).message.as_str()), (NodeState::Ready, ""));
}

/// Lets time pass for managers by raft id, with a perfect network and disk; whoever is not among them hears nothing.
fn run(managers: &mut BTreeMap<u64, Manager>, now: &mut Time, length: Duration, mut look: impl FnMut(&Manager)) {
    let end = *now + length;
    while *now < end {
        *now = *now + timing::TICK;
        let mut waiting: std::collections::VecDeque<_> = managers.keys().map(|at| (*at, Event::Tick)).collect();
        while let Some((at, event)) = waiting.pop_front() {
            let Some(manager) = managers.get_mut(&at) else { continue };
            manager.handle(*now, event);
            for action in manager.take_actions() {
                match action {
                    Action::Persist(persist) => waiting.push_back((at, Event::Persisted { n: persist.n })),
                    Action::SendPeer { raft_id, message, .. } => waiting.push_back((raft_id, Event::Peer(message))),
                    Action::StreamSnapshot { raft_id, view, message, .. } => {
                        let content = Box::new(SnapshotContent { store: (*view).clone() });
                        waiting.push_back((raft_id, Event::SnapshotReceived { message, content }));
                        waiting.push_back((at, Event::SnapshotSent { raft_id, ok: true }));
                    }
                    _ => {}
                }
            }
            look(&managers[&at]);
        }
    }
}

/// `Reachable` means that it counts for the quorum: another manager may be taken away.
#[test]
fn a_manager_is_reachable_once_it_has_a_vote_and_as_long_as_raft_hears_of_it() {
    let (first, mut now) = founded();
    let mut managers = BTreeMap::from([(1, first)]);
    let mut raft_ids = Vec::new();
    fn status(manager: &Manager, node: NodeId) -> Option<ManagerStatus> {
        manager.store.node(node)?.plan.manager.clone()
    }
    let nodes = [2, 3].map(|n| NodeId::from_random([n; 16]));
    for (n, node) in nodes.into_iter().enumerate() {
        let mut ask = |mutation| {
            let request = RequestId(managers[&1].status().applied.to_be_bytes().repeat(2).try_into().expect("16 bytes"));
            let event = Event::Request { ticket: Ticket(99), request, mutation: Box::new(mutation) };
            managers.get_mut(&1).expect("it is there").handle(now, event);
            run(&mut managers, &mut now, Duration::from_millis(200), |_| {});
        };
        let (role, availability, hostname) = (Role::Manager, Availability::Active, format!("m{}", n + 2));
        ask(Mutation::RegisterNode {
            node,
            role,
            availability,
            hostname,
            certificate_expires: START,
            addresses: Default::default(),
        });
        let (address, unsealing_key) = (format!("m{}:2377", n + 2), vec![1; 32]);
        ask(Mutation::JoinRaft { node, address, unsealing_key, slots: Vec::new(), format_max: 1 });
        // It has not started: it learns nothing, and has no vote.
        run(&mut managers, &mut now, Duration::from_secs(1), |_| {});
        let raft_id = status(&managers[&1], node).expect("its place is on record").raft_id;
        assert_eq!(managers[&1].consensus.members().learners, [raft_id]);
        assert!(status(&managers[&1], node).is_some_and(|status| status.unreachable), "a learner does not count for the quorum");
        let own = Config { node, raft_id, peers: [(1, "m1:2377".to_owned())].into(), ..config(2) };
        managers.insert(raft_id, Manager::new(own, 8 + n as u64, Recovered::default(), now));
        run(&mut managers, &mut now, Duration::from_secs(1), |manager| {
            let is_reachable = status(manager, node).is_some_and(|status| !status.unreachable);
            assert!(!is_reachable || manager.consensus.is_voter(raft_id), "it is shown as what it is not yet");
        });
        assert!(managers[&1].consensus.is_voter(raft_id));
        assert!(status(&managers[&1], node).is_some_and(|status| !status.unreachable), "it has a vote");
        raft_ids.push(raft_id);
    }
    // One falls silent: every manager answers the same.
    let away = managers.remove(&raft_ids[1]).expect("it is there");
    run(&mut managers, &mut now, timing::MANAGER_UNREACHABLE + Duration::from_secs(1), |_| {});
    for manager in managers.values() {
        let silent = [nodes[0], nodes[1], config(1).node].map(|node| status(manager, node).expect("a manager").unreachable);
        assert_eq!(silent, [false, true, false]);
    }
    managers.insert(raft_ids[1], away);
    run(&mut managers, &mut now, Duration::from_secs(1), |_| {});
    assert!(managers.values().all(|manager| status(manager, nodes[1]).is_some_and(|status| !status.unreachable)));
}
