//! The one dull loop: events go into the core, its actions are carried out.
//!
//! The loop owns the core; nobody else touches it. Whatever waits in the inbox
//! is handed over before actions are taken, so that everything that arrived
//! together is agreed and synced together. Nothing here decides anything.

use crate::world::World;
use skep_identity::clock;
use skep_manager_core::{Event, Manager};
use skep_model::Time;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How many events are handed over before actions are taken.
const BATCH_MAX: usize = 1024;

/// Where events are put. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Inbox(mpsc::UnboundedSender<Event>);

impl Inbox {
    /// An inbox and the end that the loop reads.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Hands an event to the core; nothing happens if the manager has stopped.
    pub fn put(&self, event: Event) {
        // A stopped manager answers nobody: whoever waits sees its ticket dropped.
        let _ = self.0.send(event);
    }
}

/// Runs the core until `stop`; afterwards every waiting caller is answered by
/// its channel being closed.
pub async fn run(mut manager: Manager, mut events: mpsc::UnboundedReceiver<Event>, world: Arc<World>, stop: CancellationToken) {
    loop {
        let wakeup = manager.next_wakeup().map(until);
        let event = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            event = events.recv() => match event {
                Some(event) => event,
                None => break,
            },
            () = tokio::time::sleep(wakeup.unwrap_or(Duration::MAX)), if wakeup.is_some() => Event::Tick,
        };
        manager.handle(clock::now(), event);
        for _ in 1..BATCH_MAX {
            let Ok(event) = events.try_recv() else { break };
            manager.handle(clock::now(), event);
        }
        for action in manager.take_actions() {
            world.carry_out(action);
        }
    }
    world.close();
}

fn until(wakeup: Time) -> Duration {
    wakeup.since(clock::now())
}
