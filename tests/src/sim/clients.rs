//! Clients: each works on objects of its own, one operation after the other, so
//! that it knows what every answer must be.

use super::calls::{Caller, refusal_name};
use super::checkers::network_names;
use super::random::Dice;
use super::{Happening, Simulation, sealing, services};
use skep_manager_core::store::Store;
use skep_model::container::{FileTarget, SecretReference};
use skep_model::network::NetworkSpec;
use skep_model::request::{Mutation, Outcome};
use skep_model::secret::{SECRET_MAX, SecretVersion};
use skep_model::service::{Annotations, ServiceMode, ServiceSpec};
use skep_model::{Kind, Refusal, RequestId, SecretId};
use std::collections::BTreeSet;

/// A client keeps no more networks, so that stores stay small and seeds short.
const NETWORKS_MAX: usize = 6;

/// What a client asked for.
#[derive(Debug, Clone, PartialEq)]
enum Operation {
    CreateNetwork(String),
    RemoveNetwork(String),
    CreateSecret(String, SecretId),
    UpdateSecret,
    RemoveSecret,
    CreateService(String),
    ScaleService,
    UpdateService,
    RollbackService,
    RemoveService,
    /// Must be refused in this way.
    Wrong(&'static str),
    /// Names an object by the beginning of an id, and the version of none.
    Vague,
    Read,
}

/// A secret that a client has.
#[derive(Debug, Clone)]
struct OwnSecret {
    name: String,
    id: SecretId,
    newest: u64,
}

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    number: usize,
    dice: Dice,
    counter: u64,
    networks: BTreeSet<String>,
    secret: Option<OwnSecret>,
    /// Its service, whether it uses the secret, and how many it runs.
    service: Option<(String, bool, ServiceMode)>,
    operation: Option<Operation>,
    /// What its service is to be once that is acknowledged.
    wanted: ServiceMode,
    /// Its services may have hundreds of tasks.
    is_large: bool,
}

impl Client {
    pub(super) fn new(number: usize, dice: Dice, is_large: bool) -> Self {
        let wanted = ServiceMode::Replicated { replicas: 0 };
        Self {
            number,
            dice,
            counter: 0,
            networks: BTreeSet::new(),
            secret: None,
            service: None,
            operation: None,
            wanted,
            is_large,
        }
    }

    fn name(&mut self) -> String {
        self.counter += 1;
        format!("c{}-{}", self.number, self.counter)
    }

    /// How many tasks a service is to have: fewer than that, or up to 200.
    fn replicas(&mut self, below: usize) -> u64 {
        let below = if self.is_large { *self.dice.pick(&[below, 40, 201]) } else { below };
        self.dice.below(below) as u64
    }

    /// What a service is to be. Large ones are updated in large steps, so that an update
    /// ends within the time in which everything has to converge.
    fn draw(&mut self, name: &str, mode: ServiceMode, secret: Option<SecretReference>, network: Option<String>) -> ServiceSpec {
        let mut spec = services::draw(name, mode, secret, network, &mut self.dice);
        if self.is_large {
            spec.update_config.parallelism *= 40;
            spec.rollback_config.parallelism *= 40;
        }
        spec
    }

    /// The next operation; `None` as mutation = a read.
    fn next(&mut self) -> (Operation, Option<Mutation>) {
        let which = self.dice.below(self.networks.len().max(1));
        let network = self.networks.iter().nth(which).cloned();
        let service = self.service.clone().map(|(name, ..)| name);
        match (self.dice.below(15), network, self.secret.clone(), service) {
            (0..=2, _, _, _) => (Operation::Read, None),
            (roll, Some(name), _, _) if roll == 3 || self.networks.len() > NETWORKS_MAX => {
                (Operation::RemoveNetwork(name.clone()), Some(Mutation::RemoveNetwork { network: name }))
            }
            (4 | 5, _, None, _) => self.create_secret(),
            (4, _, Some(secret), _) if secret.newest < 15 => {
                let version = version(secret.id, secret.newest + 1, &mut self.dice);
                let mutation = Mutation::UpdateSecret { secret: secret.name, version: Some(version), labels: None };
                (Operation::UpdateSecret, Some(mutation))
            }
            (5, _, Some(secret), None) => (Operation::RemoveSecret, Some(Mutation::RemoveSecret { secret: secret.name })),
            (6, network, _, None) => self.create_service(network),
            (6, _, _, Some(service)) if self.service.as_ref().is_some_and(|(_, _, mode)| *mode != ServiceMode::Global {}) => {
                let replicas = self.replicas(5);
                self.wanted = ServiceMode::Replicated { replicas };
                (Operation::ScaleService, Some(Mutation::ScaleService { service, replicas }))
            }
            (7, _, _, Some(service)) => (Operation::RemoveService, Some(Mutation::RemoveService { service })),
            (8, network, secret, _) => self.wrong(network, secret),
            (9 | 10, network, _, Some(service)) => self.update_service(service, network),
            (11, _, _, Some(service)) => (Operation::RollbackService, Some(Mutation::RollbackService { service, expect: None })),
            _ => {
                let name = self.name();
                (Operation::CreateNetwork(name.clone()), Some(Mutation::CreateNetwork { spec: network_spec(&name) }))
            }
        }
    }

    fn create_secret(&mut self) -> (Operation, Option<Mutation>) {
        let (name, id) = (self.name(), SecretId::from_random(self.dice.id()));
        let annotations = Annotations { name: name.clone(), ..Annotations::default() };
        let mutation = Mutation::CreateSecret { id, annotations, version: version(id, 1, &mut self.dice) };
        (Operation::CreateSecret(name, id), Some(mutation))
    }

    fn create_service(&mut self, network: Option<String>) -> (Operation, Option<Mutation>) {
        let name = self.name();
        let replicas = self.replicas(4);
        let is_global = self.dice.chance(150_000);
        self.wanted = if is_global { ServiceMode::Global {} } else { ServiceMode::Replicated { replicas } };
        let secret = self.secret.as_ref().map(reference);
        let spec = self.draw(&name, self.wanted, secret, network);
        (Operation::CreateService(name), Some(Mutation::CreateService { spec: Box::new(spec) }))
    }

    /// Another image, policy or placement for its service.
    fn update_service(&mut self, service: String, network: Option<String>) -> (Operation, Option<Mutation>) {
        let (_, uses_secret, mode) = self.service.clone().expect("it has a service");
        let secret = self.secret.as_ref().filter(|_| uses_secret).map(reference);
        let spec = Box::new(self.draw(&service, mode, secret, network));
        (Operation::UpdateService, Some(Mutation::UpdateService { service, expect: None, spec }))
    }

    /// Something that must be refused, and how.
    fn wrong(&mut self, network: Option<String>, secret: Option<OwnSecret>) -> (Operation, Option<Mutation>) {
        let uses_secret = self.service.as_ref().is_some_and(|(_, uses, _)| *uses);
        let (kind, mutation) = match (self.dice.below(10), network, secret, uses_secret) {
            (0, Some(name), _, _) => ("NameConflict", Mutation::CreateNetwork { spec: network_spec(&name) }),
            (1, _, _, _) => ("Invalid", Mutation::CreateNetwork { spec: network_spec("-no-name-") }),
            (2 | 3, _, Some(secret), true) => ("InUse", Mutation::RemoveSecret { secret: secret.name }),
            (4, _, Some(secret), _) => {
                let version = Some(version(secret.id, secret.newest + 5, &mut self.dice));
                ("OutOfSequence", Mutation::UpdateSecret { secret: secret.name, version, labels: None })
            }
            (5, _, Some(secret), _) => {
                let mut version = version(secret.id, secret.newest + 1, &mut self.dice);
                version.sealed.bytes.resize(SECRET_MAX + version.sealed.bytes.len(), 0);
                ("TooLarge", Mutation::UpdateSecret { secret: secret.name, version: Some(version), labels: None })
            }
            (7, _, _, _) => ("PermissionDenied", Mutation::CreateNetwork { spec: network_spec("bridge") }),
            (8, _, _, _) => {
                let mut spec = network_spec("with-an-option");
                spec.options.insert("encrypted".into(), String::new());
                ("Unsupported", Mutation::CreateNetwork { spec })
            }
            (9, _, _, _) => return self.vague(),
            _ => ("NotFound", Mutation::RemoveNetwork { network: "nobody-made-this".into() }),
        };
        (Operation::Wrong(kind), Some(mutation))
    }

    /// Changes nothing, whatever it finds: no service has the version 0.
    fn vague(&mut self) -> (Operation, Option<Mutation>) {
        let service = char::from(b'0' + self.dice.below(10) as u8).to_string();
        let spec = self.draw("vague", ServiceMode::Global {}, None, None);
        (Operation::Vague, Some(Mutation::UpdateService { service, expect: Some(0), spec: Box::new(spec) }))
    }

    /// An operation is answered for good. What a client alone works on cannot be
    /// refused, and a repeat is answered as the first call was.
    fn done(&mut self, result: Result<Outcome, Refusal>) -> Result<(), String> {
        let operation = self.operation.take().ok_or("a client was answered that had not asked")?;
        match (operation, result) {
            (Operation::Wrong(kind), Err(refusal)) if refusal_name(&refusal) == kind => Ok(()),
            (Operation::Wrong(kind), result) => Err(format!("a request was to be refused with {kind}, it got {result:?}")),
            // There may be nothing to go back to; a service that was removed may still be stopping.
            (Operation::RollbackService, Err(Refusal::FailedPrecondition(_) | Refusal::NotFound { kind: Kind::Network, .. }))
            | (Operation::RemoveSecret | Operation::RemoveNetwork(_), Err(Refusal::InUse { .. })) => Ok(()),
            (Operation::Vague, Err(Refusal::Ambiguous { .. } | Refusal::NotFound { .. } | Refusal::OutOfSequence)) => Ok(()),
            (Operation::Vague, result) => Err(format!("a request that names nothing was answered {result:?}")),
            // The pool is small in some seeds.
            (Operation::CreateNetwork(_), Err(Refusal::Exhausted(_))) => Ok(()),
            (operation, Err(refusal)) => Err(format!("{operation:?} was refused although nobody else works on it: {refusal:?}")),
            (operation, Ok(outcome)) => {
                self.remember(operation, outcome);
                Ok(())
            }
        }
    }

    fn remember(&mut self, operation: Operation, outcome: Outcome) {
        match operation {
            Operation::CreateNetwork(name) => drop(self.networks.insert(name)),
            Operation::RemoveNetwork(name) => drop(self.networks.remove(&name)),
            Operation::CreateSecret(name, id) => self.secret = Some(OwnSecret { name, id, newest: 1 }),
            Operation::UpdateSecret => {
                if let Some(secret) = &mut self.secret {
                    secret.newest = outcome.number;
                }
            }
            Operation::RemoveSecret => self.secret = None,
            Operation::CreateService(name) => self.service = Some((name, self.secret.is_some(), self.wanted)),
            Operation::RemoveService => self.service = None,
            Operation::ScaleService => {
                if let Some((_, _, mode)) = &mut self.service {
                    *mode = self.wanted;
                }
            }
            Operation::UpdateService | Operation::RollbackService | Operation::Wrong(_) | Operation::Vague | Operation::Read => {}
        }
    }

    /// A view that has everything acknowledged has everything of this client.
    fn check_view(&self, store: &Store) -> Result<(), String> {
        let names = network_names(store);
        if let Some(name) = self.networks.iter().find(|name| !names.contains(name.as_str())) {
            return Err(format!("network {name} was acknowledged and is not in the store at version {}", store.version));
        }
        if let Some(own) = &self.secret {
            let stored = store.secret(own.id).ok_or_else(|| format!("secret {} was acknowledged and is gone", own.name))?;
            if stored.spec.current != own.newest {
                return Err(format!("secret {} is at {}, not at {}", own.name, stored.spec.current, own.newest));
            }
        }
        if let Some((name, ..)) = &self.service {
            store.resolve_service(name).map_err(|refusal| format!("service {name} was acknowledged: {refusal}"))?;
        }
        Ok(())
    }

    pub(super) fn check_end(&self, store: &Store) -> Result<(), String> {
        self.check_view(store)
    }
}

impl Simulation {
    pub(super) fn client_acts(&mut self, number: usize) -> Result<(), String> {
        if !self.is_chaos() {
            return Ok(());
        }
        let request = RequestId(self.dice.clients.id());
        let client = &mut self.clients[number];
        let (operation, mutation) = client.next();
        client.operation = Some(operation);
        self.call(Caller::Client(number), request, mutation);
        Ok(())
    }

    pub(super) fn client_done(
        &mut self,
        number: usize,
        request: RequestId,
        result: Result<Outcome, Refusal>,
    ) -> Result<(), String> {
        if result.is_err() && self.checkers.had_effect(request) {
            return Err(format!("client {number} was refused a request that took effect: {result:?}"));
        }
        self.clients[number].done(result).map_err(|text| format!("client {number}: {text}"))?;
        self.think(number);
        Ok(())
    }

    pub(super) fn client_read(&mut self, number: usize, view: &Store, floor: u64) -> Result<(), String> {
        self.coverage.count("read: linearizable");
        if view.version < floor {
            return Err(format!("a read saw version {} although {floor} was acknowledged before it began", view.version));
        }
        self.clients[number].check_view(view)?;
        self.clients[number].operation = None;
        self.think(number);
        Ok(())
    }

    fn think(&mut self, client: usize) {
        let pause = self.dice.clients.around(self.profile.think);
        self.after(pause, Happening::Client { client });
    }
}

fn network_spec(name: &str) -> NetworkSpec {
    NetworkSpec {
        annotations: Annotations { name: name.into(), ..Annotations::default() },
        driver: "overlay".into(),
        ..NetworkSpec::default()
    }
}

fn version(id: SecretId, n: u64, dice: &mut Dice) -> SecretVersion {
    SecretVersion {
        n,
        sealed: sealing::seal(id, n),
        fingerprint: format!("{:016x}", dice.number()),
        created_at: super::BEGINNING,
    }
}

fn reference(secret: &OwnSecret) -> SecretReference {
    SecretReference {
        id: secret.id,
        name: secret.name.clone(),
        version: None,
        file: FileTarget { name: secret.name.clone(), uid: 0, gid: 0, mode: 0o444 },
    }
}
