//! Who waits for what: tickets and the channels behind them.
//!
//! A ticket is minted here, never reused, and its channel is dropped when the
//! manager stops, which the waiting side reads as "unavailable".

use crate::watches::{self, WatchReceiver, WatchSender};
use skep_manager_core::Store;
use skep_manager_core::Ticket;
use skep_manager_core::query::ChangeFilters;
use skep_manager_core::store::watch::{Recent, WatchEnd};
use skep_model::Refusal;
use skep_model::request::Outcome;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::oneshot;

#[derive(Debug)]
enum Waiter {
    Reply(oneshot::Sender<Result<Outcome, Refusal>>),
    Read(oneshot::Sender<Result<Arc<Store>, Refusal>>),
    Watch(WatchSender),
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

    /// A ticket for a watch, which resumes after a version if one is given.
    pub fn for_watch(&self, chosen: ChangeFilters, after: Option<u64>) -> (Ticket, WatchReceiver) {
        let (sender, receiver) = watches::queue(chosen, after);
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
            Some(Waiter::Watch(sender)) => match result {
                Ok(store) => {
                    sender.start(&store);
                    waiters.insert(ticket, Waiter::Watch(sender));
                }
                Err(refusal) => sender.end(WatchEnd::Refused(refusal)),
            },
            _ => {}
        }
    }

    /// Something changed. Returns false when the watcher is gone or too slow: its watch is over.
    #[must_use]
    pub fn changes(&self, ticket: Ticket, recent: Vec<Recent>) -> bool {
        self.give(ticket, |sender| recent.into_iter().all(|recent| sender.changes(recent)))
    }

    /// A watch since a point in time begins. Returns false as [`Self::changes`] does.
    #[must_use]
    pub fn past(&self, ticket: Ticket, view: &Store, past: Vec<Recent>, is_complete: bool) -> bool {
        self.give(ticket, |sender| sender.past(view, past, is_complete))
    }

    fn give(&self, ticket: Ticket, put: impl FnOnce(&WatchSender) -> bool) -> bool {
        let mut waiters = self.lock();
        let is_kept = match waiters.get(&ticket) {
            Some(Waiter::Watch(sender)) => put(sender),
            _ => false,
        };
        if !is_kept {
            waiters.remove(&ticket);
        }
        is_kept
    }

    /// The watch is over.
    pub fn ended(&self, ticket: Ticket, end: WatchEnd) {
        if let Some(Waiter::Watch(sender)) = self.lock().remove(&ticket) {
            sender.end(end);
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
