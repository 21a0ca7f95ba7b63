//! The one dull loop of the agent: events go into the core, its actions are
//! carried out.

use crate::world::World;
use skep_agent_core::{Agent, Event};
use skep_host::{clock, process};
use skep_model::assignment::AssignmentChange;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How many events are handed over before actions are taken.
const BATCH_MAX: usize = 256;

/// Where events are put. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Inbox(mpsc::UnboundedSender<Event>);

impl Inbox {
    /// An inbox and the end that the loop reads.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Hands an event to the core; nothing happens if the agent has stopped.
    pub fn put(&self, event: Event) {
        let _ = self.0.send(event);
    }
}

/// Runs the core until `stop`. The agent is shared so that a new session can
/// begin with all statuses; only this loop changes it.
pub async fn run(
    agent: Arc<Mutex<Agent>>,
    mut events: mpsc::UnboundedReceiver<Event>,
    world: Arc<World>,
    stop: CancellationToken,
) {
    let mut timer = clock::Timer::new();
    loop {
        let wakeup = lock(&agent).next_wakeup();
        let event = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            event = events.recv() => match event {
                Some(event) => event,
                None => break,
            },
            () = timer.until(wakeup) => Event::Tick,
        };
        let actions = {
            let mut agent = lock(&agent);
            panic_if_planted(&event);
            agent.handle(clock::read(), event);
            for _ in 1..BATCH_MAX {
                let Ok(event) = events.try_recv() else { break };
                panic_if_planted(&event);
                agent.handle(clock::read(), event);
            }
            agent.take_actions()
        };
        for action in actions {
            world.carry_out(action);
        }
    }
}

fn panic_if_planted(event: &Event) {
    if let Event::Assignments { assignments, .. } = event {
        for change in &assignments.changes {
            if let AssignmentChange::PutTask(task) = change {
                process::panic_if_planted("agent", &task.service_name);
            }
        }
    }
}

/// The agent's state; a panic elsewhere does not take it away.
pub fn lock(agent: &Mutex<Agent>) -> std::sync::MutexGuard<'_, Agent> {
    agent.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
