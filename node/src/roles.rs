//! Keeps a member's certificate fresh, and its manager as its certificate says.
//!
//! One task per membership. It looks at what is, not at what happened: whenever
//! the session names another role than the certificate, the certificate is
//! renewed; whenever the certificate's role and the manager differ, the manager is
//! started or ended. A manager without a place in raft renews first, because its
//! certificate may be older than its demotion.

use crate::failure::Failure;
use crate::member::Member;
use crate::node::{Node, Phase};
use crate::reach;
use crate::renew::Renewal;
use skep_agent::Agent;
use skep_host::process;
use skep_identity::tls::TlsIdentity;
use skep_manager::Manager;
use skep_model::assignment::SessionInfo;
use skep_model::node::Role;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Between attempts to do what the role asks for, at first and at most.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Begins to keep a member; ends with it.
pub fn keep(node: &Arc<Node>, member: &Member) {
    let keeper = Keeper {
        node: node.clone(),
        tls: member.identity.tls().clone(),
        info: Agent::info(&member.agent),
        ended: member.ended.clone(),
    };
    tokio::spawn(async move {
        let ended = keeper.ended.clone();
        tokio::select! {
            biased;
            () = ended.cancelled() => {}
            () = process::essential("the keeper of this node's certificate and role", keeper.run()) => {}
        }
    });
}

struct Keeper {
    node: Arc<Node>,
    tls: TlsIdentity,
    info: watch::Receiver<Option<SessionInfo>>,
    ended: CancellationToken,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Get a new certificate.
    Renew,
    /// Stop the manager and delete its log.
    End,
    /// Start the manager.
    Start,
    /// Tell the other managers where this one is now.
    Announce,
    /// Nothing.
    Rest,
}

/// What a member is like.
#[derive(Clone, Copy, Debug)]
struct Seen {
    certificate: Role,
    session: Option<Role>,
    has_manager: bool,
    is_removed: bool,
    has_place: bool,
    is_moved: bool,
    is_fresh: bool,
    is_due: bool,
}

fn step(seen: Seen) -> Step {
    let is_other = seen.session.is_some_and(|role| role != seen.certificate);
    match seen {
        Seen { has_manager: true, is_removed: true, .. } | Seen { certificate: Role::Worker, has_manager: true, .. } => Step::End,
        // A log that a crash left behind.
        Seen { certificate: Role::Worker, has_place: true, .. } => Step::End,
        // Until they know it, the others cannot reach this manager.
        Seen { has_manager: true, is_moved: true, .. } => Step::Announce,
        Seen { is_due: true, .. } => Step::Renew,
        // A session may lag behind a certificate that was issued just now.
        Seen { is_fresh: false, .. } if is_other => Step::Renew,
        Seen { certificate: Role::Manager, has_manager: false, has_place: false, is_fresh: false, .. } => Step::Renew,
        Seen { certificate: Role::Manager, has_manager: false, .. } => Step::Start,
        _ => Step::Rest,
    }
}

impl Keeper {
    async fn run(mut self) {
        let mut renewal = Renewal::of(&self.tls.node());
        // Fresh until the session has said something since the last renewal.
        let mut is_fresh = false;
        let mut retry = RETRY_MIN;
        loop {
            let session = self.info.borrow_and_update().as_ref().map(|info| info.role);
            let (seen, removed) = self.see(session, is_fresh, renewal.is_due()).await;
            let step = step(seen);
            let done = match step {
                Step::Rest => {
                    retry = RETRY_MIN;
                    is_fresh = self.rest(&renewal, removed, is_fresh).await;
                    continue;
                }
                Step::Renew => self.renew().await,
                Step::Announce => self.announce().await,
                Step::End | Step::Start => self.change(step).await,
            };
            match (step, done) {
                (Step::Renew, Ok(())) => {
                    renewal = Renewal::of(&self.tls.node());
                    is_fresh = true;
                }
                (Step::End, Ok(())) => is_fresh = false,
                (_, Ok(())) => {}
                (Step::Renew, Err(failure)) => {
                    self.note(&failure).await;
                    self.pause(renewal.failed()).await;
                }
                (_, Err(failure)) => {
                    self.note(&failure).await;
                    self.pause(retry).await;
                    retry = (retry * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// Waits for something to change. Whether the certificate still counts as fresh.
    async fn rest(&mut self, renewal: &Renewal, removed: Option<CancellationToken>, is_fresh: bool) -> bool {
        let removed = async {
            match removed {
                Some(removed) => removed.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.info.changed() => {
                if changed.is_err() {
                    // The agent is gone, and with it the membership.
                    self.ended.cancelled().await;
                }
                false
            }
            () = renewal.due() => is_fresh,
            () = removed => false,
        }
    }

    /// Waits before the next attempt. Only another role of the session's shortens
    /// the pause: everything else that is said changes nothing about a refusal.
    async fn pause(&mut self, pause: Duration) {
        let role = |info: &Option<SessionInfo>| info.as_ref().map(|info| info.role);
        let before = role(&self.info.borrow());
        tokio::select! {
            () = skep_host::clock::sleep(pause) => {}
            Ok(_) = self.info.wait_for(|now| role(now) != before) => {}
        }
    }

    async fn see(&self, session: Option<Role>, is_fresh: bool, is_due: bool) -> (Seen, Option<CancellationToken>) {
        let phase = self.node.phase().await;
        let (manager, has_place, is_moved) = match &*phase {
            Phase::Active(member) => (member.manager.as_ref(), member.file.raft_id.is_some(), member.file.is_moved),
            _ => (None, false, false),
        };
        let removed = manager.map(Manager::removed);
        let seen = Seen {
            certificate: self.tls.node().role,
            session,
            has_manager: manager.is_some(),
            is_removed: removed.as_ref().is_some_and(CancellationToken::is_cancelled),
            has_place,
            is_moved,
            is_fresh,
            is_due,
        };
        (seen, removed)
    }

    async fn renew(&self) -> Result<(), Failure> {
        let managers = {
            let phase = self.node.phase().await;
            let Phase::Active(member) = &*phase else { return Ok(()) };
            match member.manager {
                Some(_) => reach::Managers::all(&self.node, &member.file),
                None => reach::Managers::others(&self.node, &member.file),
            }
        };
        let issued = reach::renew(&self.tls, &managers, &self.node.settings.hostname).await?;
        let mut phase = self.node.phase().await;
        let Phase::Active(member) = &mut *phase else { return Ok(()) };
        member.identity.renew(issued)?;
        tracing::info!(role = ?self.tls.node().role, "this node's certificate was renewed");
        Ok(())
    }

    /// Asks for this manager's place again, with its new address: the others keep the
    /// place and record the address.
    async fn announce(&self) -> Result<(), Failure> {
        let (managers, file, unsealing) = {
            let mut phase = self.node.phase().await;
            let Phase::Active(member) = &mut *phase else { return Ok(()) };
            // Alone, or the leader, it records that itself.
            (reach::Managers::all(&self.node, &member.file), member.file.clone(), member.identity.manager_keys()?.unsealing)
        };
        let placed = reach::join_raft(&self.tls, &managers, file.advertise, &unsealing).await?;
        let mut phase = self.node.phase().await;
        let Phase::Active(member) = &mut *phase else { return Ok(()) };
        if member.file.advertise == file.advertise && member.file.raft_id == Some(placed.raft_id) {
            member.file.is_moved = false;
            member.file.save(&self.node.settings.data)?;
            member.trouble = None;
            self.node.publish(&phase);
            tracing::info!("the other managers know that this one is at {} now", file.advertise);
        }
        Ok(())
    }

    async fn change(&self, step: Step) -> Result<(), Failure> {
        let mut phase = self.node.phase().await;
        let Phase::Active(member) = &mut *phase else { return Ok(()) };
        let done = match step {
            Step::Start => member.start_manager(&self.node, None).await,
            _ => member.end_manager(&self.node).await,
        };
        if done.is_ok() {
            let what = if step == Step::Start { "this node is a manager now" } else { "this node is no manager any more" };
            tracing::info!("{what}");
            member.trouble = None;
        }
        self.node.publish(&phase);
        done
    }

    async fn note(&self, failure: &Failure) {
        let mut phase = self.node.phase().await;
        if let Phase::Active(member) = &mut *phase {
            member.trouble(failure);
            self.node.publish(&phase);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKER: Seen = Seen {
        certificate: Role::Worker,
        session: Some(Role::Worker),
        has_manager: false,
        is_removed: false,
        has_place: false,
        is_moved: false,
        is_fresh: false,
        is_due: false,
    };
    const MANAGER: Seen =
        Seen { certificate: Role::Manager, session: Some(Role::Manager), has_manager: true, has_place: true, ..WORKER };

    #[test]
    fn the_manager_follows_the_certificate_and_the_certificate_the_session() {
        let table = [
            (WORKER, Step::Rest),
            (Seen { session: None, ..WORKER }, Step::Rest),
            (MANAGER, Step::Rest),
            (Seen { is_due: true, ..WORKER }, Step::Renew),
            // Its address changed: first of all, unless it is to be no manager.
            (Seen { is_moved: true, is_due: true, ..MANAGER }, Step::Announce),
            (Seen { is_moved: true, is_removed: true, ..MANAGER }, Step::End),
            (Seen { is_moved: true, has_manager: false, ..MANAGER }, Step::Start),
            // Promoted: renew, then start, though the session does not say so yet.
            (Seen { session: Some(Role::Manager), ..WORKER }, Step::Renew),
            (Seen { certificate: Role::Manager, is_fresh: true, ..WORKER }, Step::Start),
            // Demoted: raft drops it, the session says so, or the certificate does.
            (Seen { is_removed: true, ..MANAGER }, Step::End),
            (Seen { session: Some(Role::Worker), ..MANAGER }, Step::Renew),
            (Seen { certificate: Role::Worker, ..MANAGER }, Step::End),
            (Seen { certificate: Role::Worker, has_manager: false, ..MANAGER }, Step::End),
            // Out of raft, with a certificate that may be old.
            (Seen { has_manager: false, has_place: false, ..MANAGER }, Step::Renew),
            (Seen { has_manager: false, has_place: false, is_fresh: true, ..MANAGER }, Step::Start),
            // It did not start; its place is still there.
            (Seen { has_manager: false, ..MANAGER }, Step::Start),
        ];
        for (seen, expected) in table {
            assert_eq!(step(seen), expected, "{seen:?}");
        }
    }
}
