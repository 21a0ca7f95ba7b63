//! One lookup at a time of what an image's name means: tasks that ask while it is
//! under way share its answer, so that a hundred tasks of one image ask the registry
//! once and not a hundred times.
//!
//! Invariants: whoever asks after an answer is there is answered anew, as a tag may
//! have moved; a lookup that nobody waits for any more ends with its last asker.

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

type Lookup<T> = BoxFuture<'static, T>;

/// The lookups under way, by what is looked up.
#[derive(Debug)]
pub(super) struct Lookups<T: Clone>(Mutex<BTreeMap<String, WeakShared<Lookup<T>>>>);

impl<T: Clone> Default for Lookups<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Lookups<T> {
    /// The answer to `name`: that of a lookup under way, or else of `begin`.
    pub(super) fn of(&self, name: String, begin: impl FnOnce() -> Lookup<T>) -> Shared<Lookup<T>> {
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|_, lookup| lookup.upgrade().is_some_and(|lookup| lookup.peek().is_none()));
        if let Some(lookup) = under_way.get(&name).and_then(WeakShared::upgrade) {
            return lookup;
        }
        let lookup = begin().shared();
        if let Some(weak) = lookup.downgrade() {
            under_way.insert(name, weak);
        }
        lookup
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn who_asks_meanwhile_shares_the_answer_and_who_asks_later_does_not() {
        let (lookups, n_begun, gate) = (Lookups::default(), Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let ask = |name: &str| {
            lookups.of(name.into(), || {
                let (number, gate) = (n_begun.fetch_add(1, Ordering::Relaxed) + 1, gate.clone());
                async move {
                    gate.acquire().await.expect("open").forget();
                    number
                }
                .boxed()
            })
        };
        let (first, second, other) = (ask("a"), ask("a"), ask("b"));
        // The second goes on though the first, which began it, is gone.
        let (mut first, second) = (Box::pin(first), tokio::spawn(second));
        assert!(first.as_mut().now_or_never().is_none());
        tokio::task::yield_now().await;
        drop(first);
        gate.add_permits(2);
        assert_eq!((second.await.unwrap(), other.await), (1, 2));
        // An answer that is there answers nobody who asks now, also while somebody has not taken it yet.
        gate.add_permits(2);
        let (third, late) = (ask("a"), ask("a"));
        assert_eq!(third.await, 3);
        assert_eq!(ask("a").await, 4);
        assert_eq!(late.await, 3);
        // Nobody waits for the fifth any more.
        drop(ask("a"));
        gate.add_permits(1);
        assert_eq!(ask("a").await, 6);
        assert_eq!(n_begun.load(Ordering::Relaxed), 6);
    }
}
