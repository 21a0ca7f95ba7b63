//! The one dull loop: events go into the core, its actions are carried out.
//!
//! The loop owns the core; nobody else touches it. Whatever waits in the inbox
//! is handed over before actions are taken, so that everything that arrived
//! together is agreed and synced together. Nothing here decides anything. A panic in
//! it ends the process: see [`skep_host::process::essential`].

use crate::inbox::Inbox;
use crate::world::World;
use skep_host::{clock, process};
use skep_manager_core::{Event, Manager};
use skep_model::request::Mutation;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Runs the core until `stop`; afterwards every waiting caller is answered by
/// its channel being closed.
pub async fn run(mut manager: Manager, inbox: Inbox, world: Arc<World>, stop: CancellationToken) {
    let mut timer = clock::Timer::new();
    loop {
        let events = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            events = inbox.next() => events,
            () = timer.until(manager.next_wakeup()) => vec![Event::Tick],
        };
        for event in events {
            panic_if_planted(&event);
            manager.handle(clock::read(), event);
        }
        for action in manager.take_actions() {
            world.carry_out(action);
        }
    }
    inbox.close();
    world.close();
}

fn panic_if_planted(event: &Event) {
    if let Event::Request { mutation, .. } = event
        && let Mutation::CreateService { spec } = &**mutation
    {
        process::panic_if_planted("manager", &spec.annotations.name);
    }
}
