//! A watch as it is streamed: changes that are wanted, each with the version and both times of its transaction, until the
//! time that was asked for.
//!
//! - A version that is too long for one message comes in several.
//! - When there is nothing to tell, it says how far it is, every [`WATCH_PROGRESS`].
//! - The last message says why it is the last one, unless its end was asked for.

use crate::api::{Gone, Shared};
use crate::watches::{Ending, Position, WatchItem, WatchReceiver};
use futures_util::Stream;
use prost::Message as _;
use skep_host::clock;
use skep_manager_core::Event;
use skep_manager_core::event::{Consistency, Ticket};
use skep_manager_core::query::{self, ChangeFilters};
use skep_manager_core::store::watch::{Recent, WatchEnd};
use skep_manager_core::store::{Change, StoredObject};
use skep_model::{Refusal, Time};
use skep_proto::PAGE_BYTES_MAX;
use skep_proto::request::{WATCH_PROGRESS, Watch, WatchFrom};
use skep_proto::status::from_refusal;
use skep_proto::v1;
use std::sync::Arc;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Status;

/// One watch.
pub(crate) struct Watching {
    guard: Gone,
    queue: WatchReceiver,
    /// A version that was received, and how many of its changes have been sent.
    due: Option<(Recent, usize)>,
    until: Option<Time>,
    /// Whether the core has answered, so that the time may run out.
    has_begun: bool,
    /// Whether nothing more is awaited: what has arrived is sent, then the stream ends.
    is_last: bool,
    is_over: bool,
    /// When it says how far it is if there is nothing else to say.
    progress_at: Instant,
}

/// What ends the wait of a watch.
enum Woken {
    Item(WatchItem),
    /// There will be no more: the manager is stopping.
    Closed,
    /// The time that was asked for is over.
    Passed,
    /// It has been silent for long enough.
    Silent,
}

impl Watching {
    /// Asks the core for it.
    pub(crate) fn open(shared: Arc<Shared>, watch: Watch) -> Result<Self, Refusal> {
        let chosen = ChangeFilters::parse(watch.kinds, watch.filters)?;
        // What follows a version is sent at once or refused.
        let after = if let WatchFrom::After(version) = watch.from { Some(version) } else { None };
        let (ticket, queue) = shared.waiting.for_watch(chosen, after);
        let guard = Gone { shared, ticket };
        guard.shared.inbox.put_call(event(ticket, watch.from))?;
        let (has_begun, progress_at) = (after.is_some(), Instant::now() + WATCH_PROGRESS);
        Ok(Self { guard, queue, due: None, until: watch.until, has_begun, is_last: false, is_over: false, progress_at })
    }

    /// Its messages.
    pub(crate) fn stream(self) -> impl Stream<Item = Result<v1::WatchEvent, Status>> + Send {
        futures_util::stream::unfold(self, |mut watching| async move {
            let message = watching.next().await?;
            watching.is_over |= message.is_err();
            watching.progress_at = Instant::now() + WATCH_PROGRESS;
            Some((message, watching))
        })
    }

    async fn next(&mut self) -> Option<Result<v1::WatchEvent, Status>> {
        loop {
            if let Some(event) = self.part() {
                return Some(Ok(event));
            }
            if self.is_over {
                return None;
            }
            match self.wake().await {
                Woken::Item(item) => {
                    if let Some(message) = self.take(item) {
                        return Some(message);
                    }
                }
                Woken::Closed if self.is_last => return None,
                Woken::Closed => {
                    return Some(Err(Status::unavailable("the manager is stopping; resume the watch by version")));
                }
                Woken::Passed => {
                    // After a read, everything that was decided before it has arrived here.
                    self.is_last = true;
                    if let Err(refusal) = self.guard.shared.read(Consistency::Linearizable).await {
                        return Some(Err(from_refusal(&refusal)));
                    }
                }
                Woken::Silent => match self.queue.position() {
                    Some(position) => return Some(Ok(reached(position))),
                    None => self.progress_at = Instant::now() + WATCH_PROGRESS,
                },
            }
        }
    }

    async fn wake(&self) -> Woken {
        if self.is_last {
            return self.queue.try_next().map_or(Woken::Closed, Woken::Item);
        }
        tokio::select! {
            biased;
            () = passed(self.until.filter(|_| self.has_begun)) => Woken::Passed,
            item = self.queue.next() => item.map_or(Woken::Closed, Woken::Item),
            () = sleep_until(self.progress_at) => Woken::Silent,
        }
    }

    /// The next message of the version that is being sent.
    fn part(&mut self) -> Option<v1::WatchEvent> {
        let (recent, mut n_sent) = self.due.take()?;
        let Recent { version, wall, time, .. } = recent;
        let mut event = reached(Position { version, wall, time });
        if self.until.is_some_and(|until| wall > until) {
            return Some(event);
        }
        let mut bytes = 0;
        for change in &recent.changes[n_sent..] {
            let change = message(change);
            bytes += change.encoded_len();
            event.more = bytes > PAGE_BYTES_MAX && !event.changes.is_empty();
            if event.more {
                break;
            }
            event.changes.push(change);
            n_sent += 1;
        }
        if event.more {
            self.due = Some((recent, n_sent));
        }
        Some(event)
    }

    /// The message that an item is; `None` if what it holds is due now.
    fn take(&mut self, item: WatchItem) -> Option<Result<v1::WatchEvent, Status>> {
        self.has_begun = true;
        Some(match item {
            WatchItem::Start(position) => Ok(reached(position)),
            // With the past complete, its first version is the first message.
            WatchItem::Past(is_complete) => Ok(v1::WatchEvent { incomplete: !is_complete, ..Default::default() }),
            WatchItem::Changes(recent) => {
                self.due = Some((recent, 0));
                return None;
            }
            WatchItem::Ended(Ending::Core(WatchEnd::Refused(refusal))) => Err(from_refusal(&refusal)),
            WatchItem::Ended(Ending::Core(WatchEnd::Forgotten { after })) => {
                self.is_over = true;
                let ended = format!("what followed version {after} is no longer kept: read again, and watch from there");
                Ok(v1::WatchEvent { resync: true, ended, ..Default::default() })
            }
            WatchItem::Ended(Ending::Behind(version)) => {
                self.is_over = true;
                let ended = format!("this watch fell too far behind: resume it after version {version}");
                Ok(v1::WatchEvent { version, ended, ..Default::default() })
            }
        })
    }
}

/// A message that says how far a watch is.
fn reached(position: Position) -> v1::WatchEvent {
    let Position { version, wall, time } = position;
    v1::WatchEvent { version, time: wall.0, store_time: time.0, ..Default::default() }
}

fn event(ticket: Ticket, from: WatchFrom) -> Event {
    match from {
        WatchFrom::Now => Event::Watch { ticket, after: None },
        WatchFrom::After(version) => Event::Watch { ticket, after: Some(version) },
        WatchFrom::Since(since) => Event::WatchSince { ticket, since },
    }
}

/// Waits until the wall clock has passed a time; for ever if there is none.
async fn passed(until: Option<Time>) {
    match until {
        Some(until) => sleep(until.since(clock::now())).await,
        None => std::future::pending().await,
    }
}

fn action(change: &Change) -> v1::ChangeAction {
    match (&change.old, &change.new) {
        (None, _) => v1::ChangeAction::Create,
        (_, Some(_)) => v1::ChangeAction::Update,
        (_, None) => v1::ChangeAction::Remove,
    }
}

fn message(change: &Change) -> v1::Change {
    let shown = |object: &StoredObject| v1::Object::from(&query::shown(object));
    let old = change.old.as_ref().map(shown);
    let object = change.new.as_ref().map(shown).or_else(|| old.clone());
    v1::Change { action: action(change).into(), object, old: old.filter(|_| change.new.is_some()) }
}
