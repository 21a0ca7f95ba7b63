//! Who waits for what: tickets and the channels behind them.
//!
//! A ticket is minted here, never reused, and its channel is dropped when the
//! manager stops, which the waiting side reads as "unavailable".

use skep_manager_core::Store;
use skep_manager_core::Ticket;
use skep_manager_core::store::watch::Recent;
use skep_model::Refusal;
use skep_model::request::Outcome;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{mpsc, oneshot};

/// Changes that a watcher may fall behind before it is cut off. What a watch missed before it
/// resumed is one of them.
const WATCH_QUEUE_MAX: usize = 4096;

/// What a watcher receives.
#[derive(Debug)]
pub enum WatchItem {
    /// The state at the version from which changes follow.
    Start(Arc<Store>),
    /// The state at the version from which changes follow, what is known of the time
    /// since the one that was asked for, and whether that is all.
    Past(Arc<Store>, Vec<Recent>, bool),
    /// What changed, and when: one version, or all that was missed before.
    Changes(Vec<Recent>),
    /// The watch ends.
    Ended(Refusal),
}

#[derive(Debug)]
enum Waiter {
    Reply(oneshot::Sender<Result<Outcome, Refusal>>),
    Read(oneshot::Sender<Result<Arc<Store>, Refusal>>),
    Watch(mpsc::Sender<WatchItem>),
}

/// All waiting callers.
#[derive(Debug, Default)]
pub struct Waiting {
    next: AtomicU64,
    waiters: Mutex<BTreeMap<Ticket, Waiter>>,
}

impl Waiting {
    /// A ticket for the reply of a request.
    pub fn for_reply(&self) -> (Ticket, oneshot::Receiver<Result<Outcome, Refusal>>) {
        let (sender, receiver) = oneshot::channel();
        (self.insert(Waiter::Reply(sender)), receiver)
    }

    /// A ticket for a read.
    pub fn for_read(&self) -> (Ticket, oneshot::Receiver<Result<Arc<Store>, Refusal>>) {
        let (sender, receiver) = oneshot::channel();
        (self.insert(Waiter::Read(sender)), receiver)
    }

    /// A ticket for a watch.
    pub fn for_watch(&self) -> (Ticket, mpsc::Receiver<WatchItem>) {
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE_MAX);
        (self.insert(Waiter::Watch(sender)), receiver)
    }

    /// The request was decided.
    pub fn reply(&self, ticket: Ticket, result: Result<Outcome, Refusal>) {
        if let Some(Waiter::Reply(sender)) = self.lock().remove(&ticket) {
            let _ = sender.send(result);
        }
    }

    /// The state is there.
    pub fn ready(&self, ticket: Ticket, result: Result<Arc<Store>, Refusal>) {
        let mut waiters = self.lock();
        match waiters.remove(&ticket) {
            Some(Waiter::Read(sender)) => {
                let _ = sender.send(result);
            }
            Some(Waiter::Watch(sender)) => {
                let (item, goes_on) = match result {
                    Ok(store) => (WatchItem::Start(store), true),
                    Err(refusal) => (WatchItem::Ended(refusal), false),
                };
                if sender.try_send(item).is_ok() && goes_on {
                    waiters.insert(ticket, Waiter::Watch(sender));
                }
            }
            _ => {}
        }
    }

    /// Something changed. Returns false when the watcher is gone or too slow:
    /// its watch is over, and it finds its channel closed.
    #[must_use]
    pub fn changes(&self, ticket: Ticket, recent: Vec<Recent>) -> bool {
        self.give(ticket, WatchItem::Changes(recent))
    }

    /// A watch since a point in time begins. Returns false when the watcher is gone.
    #[must_use]
    pub fn past(&self, ticket: Ticket, view: Arc<Store>, past: Vec<Recent>, is_complete: bool) -> bool {
        self.give(ticket, WatchItem::Past(view, past, is_complete))
    }

    fn give(&self, ticket: Ticket, item: WatchItem) -> bool {
        let mut waiters = self.lock();
        let is_kept = match waiters.get(&ticket) {
            Some(Waiter::Watch(sender)) => sender.try_send(item).is_ok(),
            _ => false,
        };
        if !is_kept {
            waiters.remove(&ticket);
        }
        is_kept
    }

    /// The watch is over.
    pub fn ended(&self, ticket: Ticket, refusal: Refusal) {
        if let Some(Waiter::Watch(sender)) = self.lock().remove(&ticket) {
            let _ = sender.try_send(WatchItem::Ended(refusal));
        }
    }

    /// The caller is gone.
    pub fn forget(&self, ticket: Ticket) {
        self.lock().remove(&ticket);
    }

    /// The manager has stopped: every channel closes.
    pub fn close(&self) {
        self.lock().clear();
    }

    fn insert(&self, waiter: Waiter) -> Ticket {
        let ticket = Ticket(self.next.fetch_add(1, Ordering::Relaxed));
        self.lock().insert(ticket, waiter);
        ticket
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Ticket, Waiter>> {
        self.waiters.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
