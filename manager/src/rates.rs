//! How much each of many may ask for in a time: a token bucket per key.
//!
//! What is remembered is bounded: a bucket that is full again says nothing and goes,
//! and where there are too many others the one that was used longest ago goes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Keys that are remembered at most.
const KEYS_MAX: usize = 4096;

/// One bucket for each key.
pub struct Rates<K> {
    per_second: f64,
    burst: f64,
    buckets: Mutex<BTreeMap<K, Bucket>>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// May be below zero: what was taken in advance.
    left: f64,
    at: Instant,
}

impl<K> fmt::Debug for Rates<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rates({} a second, {} at once)", self.per_second, self.burst)
    }
}

impl<K: Ord + Clone> Rates<K> {
    /// `per_second` on the long run, and `burst` at once.
    pub fn new(per_second: f64, burst: f64) -> Self {
        Self { per_second, burst, buckets: Mutex::default() }
    }

    /// Takes one, unless the bucket is empty: then how long it will be.
    pub fn take(&self, key: &K, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.lock();
        let bucket = self.bucket(&mut buckets, key, now);
        if bucket.left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - bucket.left) / self.per_second));
        }
        bucket.left -= 1.0;
        Ok(())
    }

    /// Takes `n`, and says for how long whoever did is to wait before the next.
    pub fn spend(&self, key: &K, n: f64, now: Instant) -> Duration {
        let mut buckets = self.lock();
        let bucket = self.bucket(&mut buckets, key, now);
        bucket.left -= n;
        Duration::from_secs_f64((-bucket.left).max(0.0) / self.per_second)
    }

    fn bucket<'a>(&self, buckets: &'a mut BTreeMap<K, Bucket>, key: &K, now: Instant) -> &'a mut Bucket {
        let full = Bucket { left: self.burst, at: now };
        if !buckets.contains_key(key) && buckets.len() >= KEYS_MAX {
            buckets.retain(|_, bucket| self.filled(*bucket, now).left < self.burst);
            let oldest = buckets.iter().min_by_key(|(_, bucket)| bucket.at).map(|(key, _)| key.clone());
            if buckets.len() >= KEYS_MAX
                && let Some(oldest) = oldest
            {
                buckets.remove(&oldest);
            }
        }
        let bucket = buckets.entry(key.clone()).or_insert(full);
        *bucket = self.filled(*bucket, now);
        bucket
    }

    fn filled(&self, bucket: Bucket, now: Instant) -> Bucket {
        let since = now.saturating_duration_since(bucket.at).as_secs_f64();
        Bucket { left: (bucket.left + since * self.per_second).min(self.burst), at: now }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, Bucket>> {
        self.buckets.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_burst_and_then_its_rate() {
        let rates = Rates::new(2.0, 3.0);
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(rates.take(&"a", start), Ok(()));
        }
        assert_eq!(rates.take(&"a", start), Err(Duration::from_millis(500)));
        assert_eq!(rates.take(&"b", start), Ok(()), "another's bucket is another");
        assert_eq!(rates.take(&"a", start + Duration::from_millis(500)), Ok(()));
        assert_eq!(rates.spend(&"a", 4.0, start + Duration::from_millis(500)), Duration::from_secs(2));
        assert_eq!(rates.spend(&"a", 0.0, start + Duration::from_secs(60)), Duration::ZERO);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let rates = Rates::new(1.0, 1.0);
        let start = Instant::now();
        for key in 0..2 * KEYS_MAX {
            let _ = rates.take(&key, start);
        }
        assert_eq!(rates.lock().len(), KEYS_MAX);
        let _ = rates.take(&usize::MAX, start + Duration::from_secs(2));
        assert_eq!(rates.lock().len(), 1, "buckets that are full again went");
    }
}
