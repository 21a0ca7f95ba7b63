//! The operator: makes the cluster, wants machines to be managers or not, and
//! removes what is lost; and the machines' daemons, which follow their roles.

use super::calls::Caller;
use super::{Happening, Simulation};
use skep_model::cluster::{Cluster, ClusterPlan, ClusterSpec, SealingSlot};
use skep_model::node::{Availability, ManagerStatus, Node, NodeDescription, NodePlan, NodeSpec, NodeStatus, Role};
use skep_model::request::{Mutation, Outcome};
use skep_model::version::FORMAT_MAX;
use skep_model::{ClusterId, Meta, Refusal, RequestId, Section};
use std::time::Duration;

/// What the operator is doing.
#[derive(Debug, Default)]
pub(super) struct Operator {
    current: Option<(String, usize)>,
    wish: Option<String>,
    is_founded: bool,
}

impl Operator {
    /// What is not yet as the operator wants it.
    pub(super) fn wish(&self) -> Option<&str> {
        self.current.as_ref().map(|(what, _)| what.as_str()).or(self.wish.as_deref())
    }
}

const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Simulation {
    /// The first request of a cluster.
    pub(super) fn bootstrap(&mut self, raft_id: u64) {
        let machine = &self.machines[0];
        let (id, address) = (machine.node, machine.address.clone());
        let spec = ClusterSpec {
            snapshot_interval: self.profile.snapshot_interval,
            address_pools: vec!["10.20.0.0/16".parse().expect("a network")],
            subnet_size: self.profile.subnet_size,
            ..ClusterSpec::default()
        };
        let slot = SealingSlot { generation: 1, bytes: vec![1; 80] };
        let plan = ClusterPlan {
            sealing_slots: [(id, vec![slot])].into(),
            sealing_generation: 1,
            format: FORMAT_MAX,
            ..ClusterPlan::default()
        };
        let cluster = Cluster {
            id: ClusterId::from_random(self.dice.other.id()),
            meta: Meta::default(),
            spec: Section::new(spec),
            plan: Section::new(plan),
        };
        let manager = ManagerStatus { raft_id, address, format_max: FORMAT_MAX, unreachable: false };
        let node = Node {
            id,
            meta: Meta::default(),
            spec: Section::new(NodeSpec { desired_role: Role::Manager, ..NodeSpec::default() }),
            description: Section::new(NodeDescription { hostname: "m0".into(), ..NodeDescription::default() }),
            status: Section::new(NodeStatus::default()),
            plan: Section::new(NodePlan {
                role: Role::Manager,
                manager: Some(manager),
                unsealing_key: vec![7; 32],
                ..NodePlan::default()
            }),
        };
        let mutation = Mutation::Bootstrap { cluster: Box::new(cluster), node: Box::new(node) };
        self.operate("to found the cluster", 0, mutation);
    }

    fn operate(&mut self, what: &str, machine: usize, mutation: Mutation) {
        self.operator.current = Some((format!("{what} (machine {machine})"), machine));
        let request = RequestId(self.dice.other.id());
        self.call(Caller::Operator, request, Some(mutation));
    }

    /// Compares what is wanted of every machine with what the leader has, and asks
    /// for one change.
    pub(super) fn operator_looks(&mut self) -> Result<(), String> {
        self.after(LOOK_EVERY, Happening::Operator);
        if self.operator.current.is_some() || !self.operator.is_founded {
            return Ok(());
        }
        let Some(leader) = self.leader() else { return Ok(()) };
        let Some(manager) = &self.machines[leader].manager else { return Ok(()) };
        let store = manager.store();
        let mut wish = None;
        for machine in &self.machines {
            let stored = store.node(machine.node);
            let mutation = match (machine.wanted, stored) {
                (Some(role), None) => Mutation::RegisterNode {
                    node: machine.node,
                    role,
                    availability: Availability::Active,
                    hostname: format!("m{}", machine.number),
                    certificate_expires: self.now + Duration::from_secs(90 * 24 * 3600),
                    addresses: Default::default(),
                },
                (Some(role), Some(node)) if node.spec.value != machine.wanted_spec(role) => {
                    Mutation::UpdateNode { node: machine.node.to_string(), expect: None, spec: machine.wanted_spec(role) }
                }
                (None, Some(node)) if node.spec.desired_role == Role::Manager => {
                    Mutation::UpdateNode { node: machine.node.to_string(), expect: None, spec: NodeSpec::default() }
                }
                (None, Some(node)) if node.plan.role == Role::Worker && node.plan.manager.is_none() => {
                    Mutation::RemoveNode { node: machine.node.to_string(), force: true }
                }
                (None, Some(_)) => {
                    wish = Some(("to see it demoted", machine.number, None));
                    continue;
                }
                _ => continue,
            };
            wish = Some(("to change a role", machine.number, Some(mutation)));
            break;
        }
        self.operator.wish = wish.as_ref().map(|(what, machine, _)| format!("{what} (machine {machine})"));
        if let Some((what, machine, Some(mutation))) = wish {
            self.operate(what, machine, mutation);
        }
        Ok(())
    }

    pub(super) fn operator_done(&mut self, result: Result<Outcome, Refusal>) -> Result<(), String> {
        self.operator.current = None;
        match result {
            Ok(_) => self.operator.is_founded = true,
            // No quorum without it now, or somebody was quicker: the next look decides anew.
            Err(Refusal::FailedPrecondition(_) | Refusal::OutOfSequence | Refusal::NotFound { .. }) => {}
            Err(refusal) => return Err(format!("the operator was refused: {refusal:?}")),
        }
        Ok(())
    }

    /// A machine asks the leader, if it can reach one, what it is to be.
    pub(super) fn daemon_looks(&mut self, number: usize) -> Result<(), String> {
        let pause = self.dice.other.around(Duration::from_millis(400));
        self.after(pause, Happening::Daemon { machine: number });
        let machine = &self.machines[number];
        if !machine.is_up || machine.is_paused || machine.is_lost {
            return Ok(());
        }
        if machine.daemon.is_none() {
            self.start_agent(number)?;
        }
        let machine = &self.machines[number];
        let reachable = |other: &usize| self.network.is_open(number, *other) && self.network.is_open(*other, number);
        let Some(leader) = self.leader().filter(reachable) else { return Ok(()) };
        let Some(manager) = &self.machines[leader].manager else { return Ok(()) };
        let store = manager.store();
        let (Some(node), Some(cluster)) = (store.node(machine.node), store.cluster()) else { return Ok(()) };
        let recorded = node.plan.manager.as_ref().map(|manager| manager.raft_id);
        match machine.disk.raft_id {
            Some(own) if recorded != Some(own) && cluster.plan.removed_raft_ids.contains(&own) => self.wipe(number),
            None if machine.join.is_none() && node.plan.role == Role::Manager && node.spec.desired_role == Role::Manager => {
                self.ask_to_join(number);
            }
            _ => {}
        }
        Ok(())
    }

    fn ask_to_join(&mut self, number: usize) {
        let request = RequestId(self.dice.other.id());
        let machine = &mut self.machines[number];
        machine.join = Some(request);
        let mutation = Mutation::JoinRaft {
            node: machine.node,
            address: machine.address.clone(),
            unsealing_key: vec![number as u8; 32],
            slots: vec![SealingSlot { generation: 1, bytes: vec![2; 80] }],
            format_max: FORMAT_MAX,
        };
        self.call(Caller::Joiner(number), request, Some(mutation));
    }

    pub(super) fn join_done(&mut self, number: usize, result: Result<Outcome, Refusal>) -> Result<(), String> {
        let peers = self.checkers.truth().nodes().filter_map(|node| node.plan.manager.as_ref());
        let peers = peers.map(|manager| (manager.raft_id, manager.address.clone())).collect();
        let machine = &mut self.machines[number];
        let is_awaited = machine.join.take().is_some() && machine.is_up && machine.disk.raft_id.is_none();
        let Ok(outcome) = result else { return Ok(()) };
        if !is_awaited {
            return Ok(());
        }
        machine.disk.raft_id = Some(outcome.number);
        machine.peers = peers;
        self.coverage.count("role: joined");
        self.start(number)
    }
}
