//! How the engine brings the kernel in line: rows, then names, then tables, and the
//! acknowledgement when conntrack is flushed as well.
//!
//! It is called for every reason alike, and each time it looks at all that is dirty:
//! what failed is dirty again after a second, and every namespace in turn for an
//! audit. A turn that looked at everything puts a version in place; what it could not
//! do is named by place ([`super::faults`]), and holds nobody else up.

use super::Engine;
use crate::kernel::KernelError;
use crate::settled::{Repair, Settled, Turn, describe};
use skep_host::clock;
use skep_model::Time;
use skep_netd_core::{Dirty, DirtyKeys, Key, Namespace, Op, Place, Setting, Value, plan};
use std::collections::BTreeMap;
use std::time::Duration;

/// In this time every namespace is read in full once.
const AUDIT_PERIOD: Duration = Duration::from_secs(30);
/// The pause before what failed is tried again.
const RETRY_PERIOD: Duration = Duration::from_secs(1);
/// Rounds of planning before other work gets its turn.
const ROUNDS_MAX: usize = 8;

impl Engine {
    /// Does what is due by now: another attempt, an audit.
    pub(super) async fn wake(&mut self) {
        let now = clock::boot();
        if self.next_retry.is_some_and(|retry| retry <= now) {
            self.next_retry = None;
            let places = self.failures.keys().copied().collect();
            self.ask(Dirty { places, keys: DirtyKeys::default() });
            self.settle(false).await;
        }
        if self.next_audit() <= now {
            let next = self.kernel.open_namespaces().find(|namespace| self.audited.0.is_none_or(|last| *namespace > last));
            let namespace = next.or_else(|| self.kernel.open_namespaces().next());
            self.audited = (namespace, now);
            if let Some(namespace) = namespace {
                self.kernel.mark_stale(namespace);
                self.tables.audit(namespace);
            }
            self.settle(true).await;
        }
    }

    /// When the next namespace is due: one after the other, and all in one period.
    pub(super) fn next_audit(&self) -> Time {
        let share = u32::try_from(self.kernel.open_namespaces().count().max(1)).unwrap_or(u32::MAX);
        self.audited.1 + AUDIT_PERIOD / share
    }

    /// Brings everything in line, rows first: what names and tables lead to is
    /// there before they do.
    pub(super) async fn settle(&mut self, is_audit: bool) {
        let has_looked = self.settle_rows(is_audit).await;
        // Before the first complete set, what is in the kernel knows more than we.
        if self.is_complete {
            self.settle_rest().await;
        }
        if has_looked {
            self.asked.retain(|place| self.failures.contains_key(place));
            self.in_place.insert(self.tables.n_ordered(), *self.taken.borrow());
        }
        let has_failures = !(self.failures.is_empty() && self.failures_after.is_empty() && self.unreadable.is_empty());
        if !has_looked || has_failures || self.underlay_failure().is_some() {
            self.retry_later();
        }
        self.acknowledge();
    }

    /// Tells of versions that are in place and whose conntrack flushes are done.
    pub(super) fn acknowledge(&mut self) {
        self.publish_faults();
        let later = self.in_place.split_off(&(self.tables.flushed_through() + 1));
        let reached = std::mem::replace(&mut self.in_place, later);
        if let Some(reached) = reached.into_values().next_back() {
            self.programmed.send_if_modified(|programmed| std::mem::replace(programmed, reached) != reached);
        }
        if self.tables.failures().next().is_some() {
            self.retry_later();
        }
    }

    fn retry_later(&mut self) {
        self.next_retry.get_or_insert_with(|| clock::boot() + RETRY_PERIOD);
    }

    /// Plans and carries out until nothing is left to do, or what is left is named.
    /// False = the node's own namespace could not be read, and nothing was looked at.
    async fn settle_rows(&mut self, is_audit: bool) -> bool {
        let (mut left, before) = (Vec::new(), self.failures.clone());
        for round in 0..ROUNDS_MAX {
            if let Err(error) = self.look(round == 0).await {
                let text = describe(&error);
                tracing::warn!(error = text, "the kernel could not be read; it is tried again");
                self.unreadable.insert(Namespace::Node, text);
                return false;
            }
            if !self.is_complete {
                self.dirty = self.dirty.intersection(&self.asked).copied().collect();
            }
            let ops = plan(&self.desired, &self.mirror, &self.dirty);
            self.failures.retain(|place, _| !self.dirty.contains(place));
            self.dirty.clear();
            if ops.is_empty() {
                return true;
            }
            for op in &ops {
                self.execute(op, is_audit && round == 0, &before).await;
            }
            left = ops;
        }
        for op in left {
            let place = op.place();
            self.asked.insert(place);
            self.failures.entry(place).or_insert_with(|| format!("cannot {op}: somebody else changes it again and again"));
        }
        true
    }

    /// Takes what the kernel told, and what it has to be asked.
    async fn look(&mut self, is_first: bool) -> Result<(), KernelError> {
        let (seen, unreadable) = self.kernel.catch_up(&mut self.mirror).await?;
        self.dirty.extend(&seen);
        self.unreadable = unreadable.into_iter().map(|(namespace, error)| (namespace, describe(&error))).collect();
        for place in seen.iter().copied().filter(|place| matches!(place.key, Key::Setting(_, Setting::Ipv6Disabled))) {
            let is_off = self.mirror.get(&place).is_some_and(|value| *value != Value::Setting(0));
            let link = place.key.link().expect("a setting is of a link");
            let derived = self.desired.set_link_without_ipv6(place.namespace, link, is_off);
            self.ask(derived);
        }
        if is_first {
            let derived = self.desired.set_lacks_ipv6(crate::kernel::lacks_ipv6());
            self.ask(derived);
        }
        let is_unknown = is_first && self.desired.overlay().capabilities().underlay_mtu().is_none();
        if self.kernel.take_hint() || is_unknown || self.dirty_keys.node {
            let address = self.desired.overlay().node().map(|node| node.address);
            let mtu = match address {
                Some(address) => self.kernel.underlay_mtu(address).await?,
                None => None,
            };
            let derived = self.desired.set_underlay_mtu(mtu);
            self.ask(derived);
        }
        Ok(())
    }

    /// Names before tables: the tables lead to where names are answered.
    async fn settle_rest(&mut self) {
        let touched = std::mem::take(&mut self.dirty_keys);
        let turn = Turn::new(self.desired.overlay(), &touched, &self.kernel);
        let of_names = self.names.settle(&turn).await;
        let of_tables = self.tables.settle(&turn, self.names.listeners()).await;
        let before = std::mem::take(&mut self.failures_after);
        for (room, settled) in [("names", of_names), ("tables", of_tables)] {
            let Settled { failures, faults, repairs } = settled;
            self.faults.replace(room, faults);
            for (namespace, failure) in failures {
                if before.get(&namespace) != Some(&failure) {
                    tracing::warn!(%namespace, failure, "something could not be done; it is tried again");
                }
                self.failures_after.insert(namespace, failure);
            }
            for Repair { kind, text, by_audit } in repairs {
                self.status.count(kind, text, by_audit);
            }
        }
    }

    async fn execute(&mut self, op: &Op, is_audit: bool, before: &BTreeMap<Place, String>) {
        let place = op.place();
        if !self.asked.contains(&place) {
            self.status.count(place.key.kind(), op.to_string(), is_audit);
        }
        self.status.operations += 1;
        match self.kernel.execute(op, &mut self.mirror).await {
            Ok(()) => tracing::debug!(%op, "done"),
            Err(error) => {
                let text = describe(&error);
                if before.get(&place) != Some(&text) {
                    tracing::warn!(error = text, "an operation failed; it is tried again");
                }
                // Perhaps the mirror was wrong.
                self.kernel.mark_stale(place.namespace);
                self.failures.insert(place, text);
                self.asked.insert(place);
            }
        }
    }
}
