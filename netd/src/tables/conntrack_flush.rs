//! Conntrack flush: entries of backends that are gone are deleted, beside the engine's
//! turns.
//!
//! - A flush is ordered when the rules without the backend are written, never before:
//!   the next packet must meet the new ones.
//! - A few namespaces are flushed at once, each by one thread at a time, and first those
//!   where the kernel can filter: to list all entries is dear. No turn waits for either:
//!   rows and tables of later versions are programmed meanwhile. Only the acknowledgement
//!   of a version waits for the orders given before it, as it tells that datagrams go
//!   nowhere else any more.
//! - A backend that is back is struck off the order before a DNAT rule sends to it again,
//!   and the order is locked while the kernel deletes: no connection that was opened since
//!   is cut. The lock is held for one short call of the kernel, and never while entries
//!   are listed, which may take some ten milliseconds.
//! - Nothing is given up: what fails is tried again with the next turn, and named until
//!   then. A namespace that is closed has no connections.

use crate::nft::conntrack::{self, Flow};
use crate::nft::{Error, Socket};
use ipnet::IpNet;
use skep_netd_core::{Namespace, NodeOverlay, Vanished};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::JoinSet;

/// Namespaces that are worked on at the same time.
const WORKERS_MAX: usize = 4;
/// Of these, namespaces whose connections are listed: the others are soon done.
const LISTS_MAX: usize = 3;
/// From here on one list of all entries costs less than a filter for each
/// backend: it takes the kernel about as long as 300 of them.
const SEARCHES_MAX: usize = 256;

/// The addresses of a namespace's networks that no endpoint has: DNAT to them is left from
/// before this process started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownBackends {
    /// The networks' subnets.
    pub subnets: Vec<IpNet>,
    /// The addresses of endpoints.
    pub known: BTreeSet<IpAddr>,
}

impl UnknownBackends {
    /// Those of a namespace.
    pub fn of(overlay: &NodeOverlay, namespace: Namespace) -> Self {
        let networks: Vec<_> = match namespace {
            Namespace::Task(task) => overlay.visible_to(task).map(|(_, network)| network).collect(),
            Namespace::Node => overlay.ingress().into_iter().collect(),
        };
        let endpoints = networks.iter().flat_map(|network| overlay.endpoints_on(network.id));
        Self {
            subnets: networks.iter().flat_map(|network| &network.pools).map(|pool| pool.subnet).collect(),
            known: endpoints.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect(),
        }
    }

    fn contain(&self, address: IpAddr) -> bool {
        !self.known.contains(&address) && self.subnets.iter().any(|subnet| subnet.contains(&address))
    }
}

/// Which conntrack entries of a namespace are to be deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlushOrder {
    /// Those with DNAT to these backends.
    pub vanished: BTreeSet<Vanished>,
    /// Those with DNAT to these, if nobody knows yet what entries there are.
    pub unknown: Option<UnknownBackends>,
}

impl FlushOrder {
    /// Whether there is nothing to delete.
    pub fn is_empty(&self) -> bool {
        self.vanished.is_empty() && self.unknown.is_none()
    }

    fn contains(&self, flow: &Flow) -> bool {
        self.vanished.iter().any(|vanished| conntrack::is_dnat_to(vanished, flow))
            || self.unknown.as_ref().is_some_and(|unknown| unknown.contain(flow.answers_from))
    }

    fn add(&mut self, more: Self) {
        self.vanished.extend(more.vanished);
        // Who came since the first look is known to the later one.
        self.unknown = more.unknown.or(self.unknown.take());
    }

    fn spare(&mut self, backend: IpAddr, is_published: bool) {
        Vanished::spare(&mut self.vanished, backend, is_published);
        if let Some(unknown) = &mut self.unknown {
            unknown.known.insert(backend);
        }
    }
}

/// All namespaces with their flushes.
#[derive(Default)]
pub struct ConntrackFlush {
    jobs: BTreeMap<Namespace, Job>,
    workers: JoinSet<Ended>,
    n_ordered: u64,
}

struct Job {
    shared: Arc<Shared>,
    /// The first order that is not carried out.
    first: u64,
    state: State,
}

/// What a worker says in the end.
type Ended = (Namespace, Arc<Shared>, Result<Done, String>);

/// How far a worker came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    /// Nothing was left after this order.
    Through(u64),
    /// For the rest, connections must be listed.
    AllButLists,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Everything is done. The socket stays open for the next order: to close it the
    /// kernel waits for its own tidying after the last change of rules, some 10 ms.
    Idle,
    Waits,
    WaitsForList,
    Runs {
        may_list: bool,
    },
    Failed(String),
}

impl ConntrackFlush {
    /// Gives an order; `descriptor` is the namespace's, none = the one that we are in.
    pub fn order(&mut self, namespace: Namespace, descriptor: Option<OwnedFd>, order: FlushOrder) {
        self.n_ordered += 1;
        let number = self.n_ordered;
        let job = self.jobs.entry(namespace).or_insert_with(|| {
            let access = Access { namespace: descriptor, socket: None };
            Job { shared: Arc::new(Shared::new(access)), first: number, state: State::Waits }
        });
        if job.state == State::Idle {
            (job.first, job.state) = (number, State::Waits);
        }
        let mut list = lock(&job.shared.list);
        list.pending.add(order);
        list.last = number;
    }

    /// A backend is there (again): connections to it stay. To be called before a DNAT
    /// rule sends to it.
    pub fn spare(&mut self, namespace: Namespace, backend: IpAddr, is_published: bool) {
        if let Some(job) = self.jobs.get(&namespace) {
            let mut list = lock(&job.shared.list);
            list.pending.spare(backend, is_published);
            list.listed.spare(backend, is_published);
        }
    }

    /// Lets go of a namespace: nobody has a descriptor of it when this returns.
    pub fn close(&mut self, namespace: Namespace) {
        if let Some(job) = self.jobs.remove(&namespace) {
            lock(&job.shared.access).take();
        }
    }

    /// Whether no flush is left anywhere.
    pub fn is_idle(&self) -> bool {
        self.jobs.values().all(|job| job.state == State::Idle)
    }

    /// Puts idle workers to work, also on what failed.
    pub fn start(&mut self) {
        self.jobs.values_mut().filter(|job| matches!(job.state, State::Failed(_))).for_each(|job| job.state = State::Waits);
        self.put_to_work();
    }

    fn put_to_work(&mut self) {
        let n_lists = self.jobs.values().filter(|job| job.state == State::Runs { may_list: true }).count();
        for (state, may_list, n_free) in
            [(State::Waits, false, WORKERS_MAX), (State::WaitsForList, true, LISTS_MAX.saturating_sub(n_lists))]
        {
            let n_free = n_free.min(WORKERS_MAX.saturating_sub(self.workers.len()));
            for (namespace, job) in self.jobs.iter_mut().filter(|(_, job)| job.state == state).take(n_free) {
                job.state = State::Runs { may_list };
                let (namespace, shared) = (*namespace, Arc::clone(&job.shared));
                self.workers.spawn_blocking(move || {
                    let result = shared.work(may_list).map_err(|error| error.to_string());
                    (namespace, shared, result)
                });
            }
        }
    }

    /// Waits until a worker is done, and puts it to work elsewhere; for ever when
    /// none is at work. Dropping the future loses nothing.
    pub async fn progress(&mut self) {
        match self.workers.join_next().await {
            Some(ended) => self.take(ended.expect("a flush does not panic")),
            None => std::future::pending().await,
        }
    }

    fn take(&mut self, (namespace, shared, result): Ended) {
        // A namespace that was let go meanwhile may have another job by now.
        if let Some(job) = self.jobs.get_mut(&namespace).filter(|job| Arc::ptr_eq(&job.shared, &shared)) {
            match result {
                Ok(Done::Through(last)) if lock(&shared.list).last <= last => job.state = State::Idle,
                Ok(Done::Through(last)) => (job.first, job.state) = (last + 1, State::Waits),
                Ok(Done::AllButLists) => job.state = State::WaitsForList,
                Err(error) => job.state = State::Failed(error),
            }
        }
        self.put_to_work();
    }

    /// How many orders were given.
    pub fn n_ordered(&self) -> u64 {
        self.n_ordered
    }

    /// All orders up to this one are carried out, but for those that failed: they are
    /// named ([`Self::failures`]) and hold nobody else up.
    pub fn done_through(&self) -> u64 {
        let is_under_way = |job: &&Job| !matches!(job.state, State::Idle | State::Failed(_));
        let under_way = self.jobs.values().filter(is_under_way);
        under_way.map(|job| job.first - 1).min().unwrap_or(self.n_ordered)
    }

    /// What failed and is tried again.
    pub fn failures(&self) -> impl Iterator<Item = (Namespace, String)> + '_ {
        self.jobs.iter().filter_map(|(namespace, job)| match &job.state {
            State::Failed(error) => Some((*namespace, format!("connections could not be forgotten: {error}"))),
            _ => None,
        })
    }
}

/// What the engine and a worker share. Whoever takes both locks takes `access` first.
struct Shared {
    /// None = let go.
    access: Mutex<Option<Access>>,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    pending: FlushOrder,
    /// What a list of connections is being made for.
    listed: FlushOrder,
    /// The last order that it is made of.
    last: u64,
}

struct Access {
    namespace: Option<OwnedFd>,
    socket: Option<Socket>,
}

impl Access {
    fn socket(&mut self) -> Result<&mut Socket, Error> {
        if self.socket.is_none() {
            let socket = match &self.namespace {
                Some(namespace) => Socket::open_in(namespace.as_fd())?,
                None => Socket::open()?,
            };
            self.socket = Some(socket);
        }
        Ok(self.socket.as_mut().expect("it was opened"))
    }
}

impl Shared {
    fn new(access: Access) -> Self {
        Self { access: Mutex::new(Some(access)), list: Mutex::default() }
    }

    /// Deletes until nothing is left, or nothing but what takes a list.
    fn work(&self, may_list: bool) -> Result<Done, Error> {
        loop {
            let mut access = lock(&self.access);
            let Some(open) = access.as_mut() else { return Ok(Done::Through(lock(&self.list).last)) };
            match self.step(open, may_list) {
                Ok(None) => {}
                Ok(Some(done)) => return Ok(done),
                Err(error) => {
                    // Perhaps it was the socket.
                    open.socket = None;
                    return Err(error);
                }
            }
        }
    }

    /// Does a part; `Some` = that was all.
    fn step(&self, access: &mut Access, may_list: bool) -> Result<Option<Done>, Error> {
        let socket = access.socket()?;
        {
            let mut list = lock(&self.list);
            if list.pending.is_empty() {
                return Ok(Some(Done::Through(list.last)));
            }
            // Most namespaces have no connection at all.
            if conntrack::count(socket)? == 0 {
                list.pending = FlushOrder::default();
                return Ok(Some(Done::Through(list.last)));
            }
            if list.search(socket)? {
                return Ok(None);
            }
        }
        if !may_list {
            return Ok(Some(Done::AllButLists));
        }
        let result = self.list_and_delete(socket);
        let mut list = lock(&self.list);
        let listed = std::mem::take(&mut list.listed);
        if result.is_err() {
            list.pending.add(listed);
        }
        result.map(|()| None)
    }

    /// Deletes what is found in a list of all entries.
    fn list_and_delete(&self, socket: &mut Socket) -> Result<(), Error> {
        {
            let mut list = lock(&self.list);
            list.listed = std::mem::take(&mut list.pending);
        }
        for tracked in conntrack::list(socket)? {
            let list = lock(&self.list);
            if list.listed.contains(&tracked.flow) {
                conntrack::delete(socket, &tracked)?;
            }
        }
        Ok(())
    }
}

impl List {
    /// Flushes one backend by a filter; `false` = for what is left, a list is needed.
    fn search(&mut self, socket: &mut Socket) -> Result<bool, Error> {
        let vanished = &mut self.pending.vanished;
        if vanished.len() > SEARCHES_MAX {
            return Ok(false);
        }
        let Some(next) = vanished.iter().find(|vanished| conntrack::is_searchable(vanished)).copied() else { return Ok(false) };
        let is_done = conntrack::flush(socket, &next)?;
        if is_done {
            vanished.remove(&next);
        }
        Ok(is_done)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
