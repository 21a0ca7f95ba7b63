//! Waiting until a task may be stopped without cutting anybody off.
//!
//! A task that is to stop is not to be found any more when this begins, so its
//! connections only become fewer. What counts are TCP connections that others
//! opened to it; one that it opened itself, or that stays on its own loopback, is
//! its own affair. A connection is *busy* while bytes move on it and for
//! [`activity::IDLE_AFTER`] after the last; a drain ends when none is busy, or at
//! its limit.
//!
//! Nothing is polled. The kernel tells of every connection that ends; otherwise
//! the connections are read again at the one moment at which the last of the busy
//! ones would become idle, never sooner.
//!
//! An open netlink socket keeps its namespace alive: whoever removes the namespace
//! drops the [`Drain`] first.

mod activity;
mod diag;

use activity::Activity;
use diag::{Diag, Ended};
use skep_host::clock;
use skep_model::Time;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Why the connections of a task could not be watched.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The sockets could not be made in the task's namespace.
    #[error("cannot watch the connections of a task")]
    Open(#[source] io::Error),
    /// The kernel did not list the connections.
    #[error("cannot list the connections of a task")]
    List(#[source] io::Error),
    /// The kernel's word on ended connections could not be waited for.
    #[error("cannot hear of ended connections")]
    Events(#[source] io::Error),
}

/// A task's namespace whose connections are watched.
pub struct Drain {
    diag: Diag,
    ports: BTreeSet<u16>,
}

impl Drain {
    /// Opens the sockets in the namespace; to be called inside the runtime that
    /// will wait. Connections count to `ports`, and to every port that is listened
    /// on there.
    ///
    /// # Errors
    /// If the sockets cannot be made.
    pub fn open_in(namespace: BorrowedFd<'_>, ports: BTreeSet<u16>) -> Result<Self, DrainError> {
        Ok(Self { diag: Diag::open_in(namespace).map_err(DrainError::Open)?, ports })
    }

    /// Waits until no connection is busy, or for as long as `limit`, and tells how
    /// many were busy at the end.
    ///
    /// # Errors
    /// If the kernel does not tell of the connections.
    pub async fn wait(mut self, limit: Duration) -> Result<u32, DrainError> {
        let (start, mut timer) = (clock::boot(), clock::Timer::new());
        let mut activity = Activity::default();
        loop {
            self.diag.forget_ended();
            self.ports.extend(self.diag.listening().map_err(DrainError::List)?);
            let connections = self.diag.connections(&self.ports).map_err(DrainError::List)?;
            let elapsed = clock::boot().since(start);
            activity.take(elapsed, &connections);
            let Some(idle_at) = activity.idle_at(elapsed) else { return Ok(0) };
            if elapsed >= limit {
                return Ok(u32::try_from(activity.n_busy(elapsed)).unwrap_or(u32::MAX));
            }
            let wakeup = start + idle_at.min(limit);
            // All of them ended, or the time has come: look again either way, since
            // one that was idle may have woken up.
            tokio::select! {
                ended = self.all_ended(&mut activity, start) => ended?,
                () = timer.until(Some(wakeup)) => {}
            }
        }
    }

    /// Waits until the busy connections have all ended.
    async fn all_ended(&mut self, activity: &mut Activity, start: Time) -> Result<(), DrainError> {
        while activity.n_busy(clock::boot().since(start)) > 0 {
            match self.diag.ended().await.map_err(DrainError::Events)? {
                Ended::Connections(cookies) => cookies.iter().for_each(|cookie| activity.end(*cookie)),
                Ended::Unknown => return Ok(()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
