//! The one owner of everything: it takes commands and the kernel's events, plans,
//! and carries out.
//!
//! Until the first complete set of objects was committed, netd only watches: after
//! its own restart it cannot know what should be there, and removes nothing. From
//! then on whatever differs without having been asked for is drift: repaired,
//! counted, and named.
//!
//! Here is the loop and what it is made of; what is told and asked is in `commands`,
//! how the kernel is brought in line in `settling`.

mod commands;
mod faults;
mod repairs;
mod settling;

use crate::dns::Resolvers;
use crate::dns::keeper::{Keeper, Kept};
use crate::kernel::{Kernel, KernelError};
use crate::probe::Plan;
use crate::tables::{News, Tables};
use faults::Faults;
pub(crate) use faults::owner;
use ipnet::IpNet;
use skep_host::clock;
use skep_model::overlay::LocalTask;
use skep_model::place::{PlaceFault, PlaceFaults};
use skep_model::{NetworkId, TaskId, Time};
use skep_netd_core::{DesiredRows, DirtyKeys, Gateway, Key, Mirror, Namespace, Object, ObjectKey, Place, gateway_bridge_name};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// How far the kernel is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Programmed {
    /// The stream of changes that is in charge; 0 = none was yet.
    pub stream: u64,
    /// The kernel holds everything up to this version of it.
    pub version: u64,
}

/// One change of the desired state.
#[derive(Clone, Debug)]
pub enum ObjectChange {
    /// A new or changed object.
    Put(Object),
    /// An object that is gone.
    Remove(ObjectKey),
    /// A task that is gone with its namespace.
    RemoveNamespace(TaskId),
    /// An object that cannot be taken; whatever was under its key is gone. `None` = its
    /// key is not known.
    LeaveOut(Option<ObjectKey>, PlaceFault),
}

/// What the engine can be told.
#[derive(Debug)]
pub enum Command {
    /// Changes up to a version.
    Commit {
        /// The stream it came on; those of older streams are ignored.
        stream: u64,
        /// The version.
        version: u64,
        /// Whether objects that are not in it are gone.
        is_complete: bool,
        /// The changes.
        changes: Vec<ObjectChange>,
    },
    /// A task needs its namespace.
    MakeNamespace(Box<LocalTask>, oneshot::Sender<Result<PathBuf, String>>),
    /// A task does not need its namespace any more.
    RemoveNamespace(TaskId, oneshot::Sender<Result<(), String>>),
    /// A task is to stop once nobody would be cut off, or the time is over; the
    /// answer is how many would be then.
    Drain(TaskId, Duration, oneshot::Sender<Result<u32, String>>),
    /// Someone wants to know what can be reached, on these networks or on all.
    Probe(BTreeSet<NetworkId>, oneshot::Sender<Result<Plan, String>>),
    /// Someone wants to know how it goes.
    Status(oneshot::Sender<Status>),
}

/// How it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Everything up to this version is in the kernel.
    pub programmed_through: u64,
    /// Tasks with a namespace.
    pub tasks: Vec<TaskId>,
    /// Repairs by kind of row.
    pub repaired: BTreeMap<String, u64>,
    /// Repairs that only an audit found the need for.
    pub repaired_by_audit: u64,
    /// The last repairs, newest last.
    pub repairs: VecDeque<String>,
    /// Operations carried out.
    pub operations: u64,
    /// Times that events were lost.
    pub overruns: u64,
    /// What failed and is tried again.
    pub failures: Vec<String>,
    /// What does not work, by place.
    pub faults: Arc<PlaceFaults>,
}

/// The engine.
pub struct Engine {
    desired: DesiredRows,
    mirror: Mirror,
    kernel: Kernel,
    names: Resolvers,
    tables: Tables,
    /// Whoever waits for connections of a task.
    drains: BTreeMap<TaskId, JoinSet<()>>,
    /// Where to look.
    dirty: BTreeSet<Place>,
    /// Of these, what was asked for: there a difference is no drift.
    asked: BTreeSet<Place>,
    /// What names and tables were not told of yet.
    dirty_keys: DirtyKeys,
    failures: BTreeMap<Place, String>,
    /// What names and tables could not do.
    failures_after: BTreeMap<Namespace, String>,
    /// Namespaces of tasks that could not be read; what is known of them may be wrong.
    unreadable: BTreeMap<Namespace, String>,
    /// Objects that could not be taken.
    left_out: BTreeMap<Option<ObjectKey>, PlaceFault>,
    /// What rooms named beside all these.
    faults: Faults,
    published_faults: watch::Sender<Arc<PlaceFaults>>,
    is_complete: bool,
    taken: watch::Sender<Programmed>,
    programmed: watch::Sender<Programmed>,
    /// Versions whose rows, names and tables were looked at, each under the last
    /// order to forget connections that it brought about.
    in_place: BTreeMap<u64, Programmed>,
    status: Status,
    /// The namespace that was read in full last, and when.
    audited: (Option<Namespace>, Time),
    next_retry: Option<Time>,
}

impl Engine {
    /// Takes over whatever the kernel holds, and changes nothing.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub async fn adopt(mut kernel: Kernel) -> Result<Self, KernelError> {
        let (mut desired, mut mirror, mut dirty_keys) = (DesiredRows::new(), Mirror::new(), DirtyKeys::default());
        kernel.catch_up(&mut mirror).await?;
        adopt_gateway(&mut desired, &mirror, &kernel).await?;
        for task in kernel.namespaces().list()? {
            dirty_keys.extend(desired.put_namespace(task).keys);
        }
        Ok(Self {
            desired,
            mirror,
            kernel,
            names: Resolvers::default(),
            tables: Tables::default(),
            drains: BTreeMap::new(),
            dirty: BTreeSet::new(),
            asked: BTreeSet::new(),
            dirty_keys,
            failures: BTreeMap::new(),
            failures_after: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            left_out: BTreeMap::new(),
            faults: Faults::default(),
            published_faults: watch::Sender::new(Arc::default()),
            is_complete: false,
            taken: watch::Sender::new(Programmed::default()),
            programmed: watch::Sender::new(Programmed::default()),
            in_place: BTreeMap::new(),
            status: Status::default(),
            audited: (None, clock::boot()),
            next_retry: None,
        })
    }

    /// Has the sockets for names held by another process while there is no netd.
    pub fn keep_names(&self, keeper: Keeper, held: BTreeMap<TaskId, Kept>) {
        self.names.server().keep_by(keeper, held);
    }

    /// What does not work, by place.
    pub fn faults(&self) -> watch::Receiver<Arc<PlaceFaults>> {
        self.published_faults.subscribe()
    }

    /// The version that everything up to was looked at, and is in place but for the
    /// faults: rows, tables and names, and no connection goes on to whoever was gone by
    /// then.
    pub fn programmed(&self) -> watch::Receiver<Programmed> {
        self.programmed.subscribe()
    }

    /// The version that was taken last, in place or not.
    pub fn taken(&self) -> watch::Receiver<Programmed> {
        self.taken.subscribe()
    }

    /// Works until nobody can command any more.
    ///
    /// # Errors
    /// If the kernel's events cannot be waited for.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> std::io::Result<()> {
        let mut timer = clock::Timer::new();
        loop {
            let wakeup = self.next_retry.map_or(self.next_audit(), |retry| retry.min(self.next_audit()));
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return Ok(()),
                },
                waited = self.kernel.wait() => {
                    waited?;
                    self.settle(false).await;
                }
                news = self.tables.wait() => match news {
                    News::Drifted => self.settle(false).await,
                    News::Flushed => self.acknowledge(),
                },
                () = timer.until(Some(wakeup)) => self.wake().await,
            }
        }
    }
}

/// Takes over the gateway's subnets and who has which address, or chooses subnets.
async fn adopt_gateway(desired: &mut DesiredRows, mirror: &Mirror, kernel: &Kernel) -> Result<(), KernelError> {
    let addresses: Vec<(Namespace, Key)> = mirror.places().map(|place| (place.namespace, place.key)).collect();
    let of_bridge = addresses.iter().filter_map(|(namespace, key)| match key {
        Key::Address(link, net) if *namespace == Namespace::Node && *link == gateway_bridge_name() => Some(*net),
        _ => None,
    });
    let (mut v4, mut v6) = (None, None);
    for net in of_bridge {
        match net {
            IpNet::V4(net) => v4 = Some(net.trunc()),
            IpNet::V6(net) => v6 = Some(net.trunc()),
        }
    }
    let gateway = match v4 {
        Some(v4) => Some(Gateway::new(v4, v6)),
        None => {
            let occupied = kernel.occupied().await?;
            let has_v6 = occupied.iter().any(|net| matches!(net, IpNet::V6(_)));
            Gateway::choose(&occupied, has_v6)
        }
    };
    desired.set_gateway(gateway);
    for (namespace, key) in addresses {
        if let (Namespace::Task(task), Key::Address(_, net)) = (namespace, key) {
            desired.keep_address(task, net.addr());
        }
    }
    Ok(())
}
