//! Networks, services, scales, nodes and leaders come and go at random: nothing
//! that may have one owner ever has two, and all of it is free in the end.

#[expect(dead_code, reason = "scenarios need more of it")]
mod cluster;

use cluster::Cluster;
use skep_manager_core::Mint;
use skep_manager_core::mint::Purpose;
use skep_model::endpoint::{EndpointMode, PublishMode, PublishedPort, Transport};
use skep_model::network::{NetworkRequest, NetworkSpec, Pool};
use skep_model::request::Mutation;
use skep_model::resources::Resources;
use skep_model::service::{Annotations, NetworkMode, Platform, ServiceMode, ServiceSpec, TaskSpec, UpdateConfig, UpdateOrder};
use skep_model::{Refusal, TaskState};
use skep_tests::owners;
use std::collections::BTreeMap;
use std::time::Duration;

/// Steps of a usual test run, and of a full one.
const SHORT: usize = 3_000;
const FULL: usize = 100_000;
/// Names, so that steps meet each other's objects.
const NETWORKS: u64 = 5;
const SERVICES: u64 = 6;
const NODES: u64 = 4;

struct Walk {
    cluster: Cluster,
    dice: Mint,
    /// What was refused, by the first word of its kind.
    refused: BTreeMap<&'static str, usize>,
    n_waited: usize,
}

impl Walk {
    fn below(&mut self, bound: u64) -> u64 {
        self.dice.below(Purpose::Choice, bound)
    }

    fn step(&mut self) {
        match self.below(20) {
            0 | 1 => self.create_network(),
            2 => self.remove_network(),
            3..=5 => self.create_service(),
            6 | 7 => self.update_service(),
            8..=10 => self.scale(),
            11 | 12 => self.remove_service(),
            13 => self.silence(),
            14 => self.open(),
            15 => self.fail_task(),
            16 => self.replace_node(),
            17 if self.below(3) == 0 => self.cluster.change_leader(),
            _ => {
                let seconds = 1 + self.below(6);
                self.cluster.advance(Duration::from_secs(seconds));
            }
        }
        owners::check(&self.cluster.store).expect("everything has one owner");
        let waits = |task: &&std::sync::Arc<skep_model::task::Task>| task.status.error.starts_with("no available address");
        self.n_waited += usize::from(self.cluster.store.tasks().any(|task| waits(&task)));
    }

    fn ask(&mut self, mutation: Mutation) {
        if let Err(refusal) = self.cluster.request(mutation) {
            let kind = match refusal {
                Refusal::NotFound { .. } => "NotFound",
                Refusal::NameConflict { .. } => "NameConflict",
                Refusal::InUse { .. } => "InUse",
                Refusal::Invalid { .. } => "Invalid",
                Refusal::Exhausted(_) => "Exhausted",
                Refusal::FailedPrecondition(_) => "FailedPrecondition",
                other => panic!("a random step was refused in a way that it cannot be: {other}"),
            };
            *self.refused.entry(kind).or_default() += 1;
        }
    }

    fn create_network(&mut self) {
        let mut spec = NetworkSpec { driver: "overlay".into(), ..NetworkSpec::default() };
        spec.annotations.name = format!("net{}", self.below(NETWORKS));
        spec.ipv6 = self.below(4) == 0;
        spec.ingress = self.below(8) == 0;
        // Small ones run full, and the same ones overlap.
        if self.below(3) != 0 {
            let subnet = format!("192.168.{}.0/29", self.below(4)).parse().expect("a network");
            spec.pools.push(Pool { subnet, range: None, gateway: None });
        }
        self.ask(Mutation::CreateNetwork { spec });
    }

    fn remove_network(&mut self) {
        let network = if self.below(6) == 0 { "ingress".into() } else { format!("net{}", self.below(NETWORKS)) };
        self.ask(Mutation::RemoveNetwork { network });
    }

    fn spec(&mut self, name: String) -> ServiceSpec {
        let mut template = TaskSpec { network: NetworkMode::Bridge, ..TaskSpec::default() };
        template.container_spec.image = format!("app:{}", self.below(3));
        template.restart_policy.delay = Duration::from_secs(self.below(3));
        let mut networks: Vec<u64> = (0..self.below(3)).map(|_| self.below(NETWORKS)).collect();
        networks.sort_unstable();
        networks.dedup();
        template.networks = networks
            .iter()
            .map(|n| NetworkRequest { target: format!("net{n}"), aliases: Vec::new(), any_source: false })
            .collect();
        let mut spec = ServiceSpec {
            annotations: Annotations { name, labels: BTreeMap::new() },
            task_template: template,
            mode: ServiceMode::Replicated { replicas: 1 + self.below(4) },
            update_config: UpdateConfig { parallelism: 0, ..UpdateConfig::default() },
            rollback_config: UpdateConfig::default(),
            endpoint_spec: Default::default(),
            deadline: None,
        };
        if self.below(2) == 0 {
            spec.update_config.order = UpdateOrder::StartFirst;
        }
        if self.below(5) == 0 {
            spec.endpoint_spec.mode = EndpointMode::Dnsrr;
        }
        for _ in 0..self.below(3) {
            let is_host = spec.endpoint_spec.mode == EndpointMode::Dnsrr || self.below(3) == 0;
            let published_port = if self.below(2) == 0 { 0 } else { 29_998 + self.below(6) as u16 };
            let transport = if self.below(3) == 0 { Transport::Udp } else { Transport::Tcp };
            let publish_mode = if is_host { PublishMode::Host } else { PublishMode::Ingress };
            let target_port = 80 + self.below(2) as u16;
            spec.endpoint_spec.ports.push(PublishedPort { transport, target_port, published_port, publish_mode });
        }
        spec
    }

    fn create_service(&mut self) {
        let name = format!("web{}", self.below(SERVICES));
        let spec = Box::new(self.spec(name));
        self.ask(Mutation::CreateService { spec });
    }

    fn update_service(&mut self) {
        let service = format!("web{}", self.below(SERVICES));
        if self.below(4) == 0 {
            return self.ask(Mutation::RollbackService { service, expect: None });
        }
        let spec = Box::new(self.spec(service.clone()));
        self.ask(Mutation::UpdateService { service, expect: None, spec });
    }

    fn scale(&mut self) {
        let (service, replicas) = (format!("web{}", self.below(SERVICES)), self.below(7));
        self.ask(Mutation::ScaleService { service, replicas });
    }

    fn remove_service(&mut self) {
        let service = format!("web{}", self.below(SERVICES));
        self.ask(Mutation::RemoveService { service });
    }

    fn node(&mut self) -> String {
        format!("n{}", self.below(NODES))
    }

    fn silence(&mut self) {
        let node = self.node();
        self.cluster.silence(&node);
    }

    fn open(&mut self) {
        let node = self.node();
        if !self.cluster.agents[&node].is_up {
            self.cluster.open(&node);
            self.cluster.settle();
        }
    }

    /// A node that is gone for good is removed, and another one joins.
    fn replace_node(&mut self) {
        let name = self.node();
        if self.below(4) != 0 || self.cluster.agents[&name].is_up {
            return;
        }
        let node = self.cluster.agents[&name].node.expect("an agent has a node").to_string();
        self.ask(Mutation::RemoveNode { node, force: true });
        add_node(&mut self.cluster, &name);
    }

    fn fail_task(&mut self) {
        let running = self.cluster.store.tasks().filter(|task| task.status.state == TaskState::Running);
        let running: Vec<_> = running.map(|task| task.id).collect();
        if !running.is_empty() {
            let task = running[self.below(running.len() as u64) as usize];
            self.cluster.report(task, |status| status.state = TaskState::Failed);
        }
    }

    /// Everything goes; then a network of five addresses holds five owners, for
    /// the leader that saw it all: nothing is remembered as owned.
    fn end(mut self) {
        for n in 0..NODES {
            let name = format!("n{n}");
            if !self.cluster.agents[&name].is_up {
                self.cluster.open(&name);
                self.cluster.settle();
            }
        }
        for n in 0..SERVICES {
            self.ask(Mutation::RemoveService { service: format!("web{n}") });
        }
        self.cluster.advance(Duration::from_secs(120));
        assert_eq!(self.cluster.store.tasks().count(), 0, "tasks are left");
        for n in 0..NETWORKS {
            let name = format!("net{n}");
            let result = self.cluster.request(Mutation::RemoveNetwork { network: name });
            assert!(matches!(result, Ok(_) | Err(Refusal::NotFound { .. })), "{result:?}");
        }
        let mut spec = NetworkSpec { driver: "overlay".into(), ..NetworkSpec::default() };
        spec.annotations.name = "last".into();
        let subnet = "192.168.0.0/29".parse().expect("a network");
        spec.pools.push(Pool { subnet, range: None, gateway: None });
        self.cluster.request(Mutation::CreateNetwork { spec }).expect("its subnet is free");
        let mut spec = self.spec("last".into());
        spec.mode = ServiceMode::Replicated { replicas: 4 };
        spec.endpoint_spec = Default::default();
        spec.task_template.networks = vec![NetworkRequest { target: "last".into(), aliases: Vec::new(), any_source: false }];
        // As often as it takes for every address to have been given and freed.
        for _ in 0..4 {
            self.cluster.request(Mutation::CreateService { spec: Box::new(spec.clone()) }).expect("a service");
            self.cluster.advance(Duration::from_secs(5));
            let running = self.cluster.store.tasks().filter(|task| task.status.state == TaskState::Running);
            assert_eq!(running.count(), 4, "five addresses are free");
            self.ask(Mutation::RemoveService { service: "last".into() });
            self.cluster.advance(Duration::from_secs(5));
        }
    }
}

fn add_node(cluster: &mut Cluster, name: &str) {
    let resources = Resources { nano_cpus: 64_000_000_000, memory_bytes: 64 << 30 };
    cluster.add_node(name, resources, Platform { architecture: "x86_64".into(), os: "linux".into() });
}

fn walk(seed: u64, steps: usize) {
    let mut cluster = Cluster::new(seed);
    for n in 0..NODES {
        add_node(&mut cluster, &format!("n{n}"));
    }
    let mut walk = Walk { cluster, dice: Mint::new(seed ^ 0xadd), refused: BTreeMap::new(), n_waited: 0 };
    for _ in 0..steps {
        walk.step();
    }
    // A walk that never met a limit has tested nothing.
    for kind in ["NameConflict", "InUse", "Invalid", "FailedPrecondition", "NotFound"] {
        assert!(walk.refused.contains_key(kind), "{kind} was never refused: {:?}", walk.refused);
    }
    assert!(walk.n_waited > 0, "no network ever ran full");
    walk.end();
}

#[test]
fn nothing_has_two_owners_whatever_happens() {
    let steps = if std::env::var_os("SKEP_FULL").is_some() { FULL } else { SHORT };
    // Several walks, so that none grows old in one corner.
    for seed in 0..4 {
        walk(seed, steps / 4);
    }
}
