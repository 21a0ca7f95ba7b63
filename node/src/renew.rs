//! When a certificate is renewed: between half and four fifths of its life, at a
//! moment drawn once, so that nodes do not come all at once; after a failure at
//! growing distances, also when it has expired.

use skep_host::clock;
use skep_identity::NodeIdentity;
use skep_identity::certificate::random_jitter;
use skep_model::Time;
use std::time::Duration;

/// After the first failure.
const BACKOFF_MIN: Duration = Duration::from_secs(5);
/// After many.
const BACKOFF_MAX: Duration = Duration::from_secs(3600);
/// The clock is looked at again this often: it may be set.
const LOOK_MAX: Duration = Duration::from_secs(60);

/// The next renewal of one certificate.
#[derive(Debug)]
pub struct Renewal {
    at: Time,
    backoff: Duration,
}

impl Renewal {
    /// The renewal of this certificate.
    pub fn of(certificate: &NodeIdentity) -> Self {
        Self { at: certificate.renew_at(random_jitter()), backoff: BACKOFF_MIN }
    }

    /// Whether it is time.
    pub fn is_due(&self) -> bool {
        clock::now() >= self.at
    }

    /// Returns when it may be time: the caller looks.
    pub async fn due(&self) {
        clock::sleep(self.at.since(clock::now()).min(LOOK_MAX)).await;
    }

    /// It failed; how long to wait until the next attempt.
    pub fn failed(&mut self) -> Duration {
        let pause = self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::node::Role;

    fn certificate(from_hours: u64, to_hours: u64) -> NodeIdentity {
        let hour = |count: u64| Duration::from_secs(3600 * count);
        NodeIdentity {
            node_id: "n".into(),
            role: Role::Worker,
            cluster_id: "c".into(),
            not_before: clock::now() - hour(from_hours),
            not_after: clock::now() + hour(to_hours),
            serial: "01".into(),
        }
    }

    #[test]
    fn a_certificate_is_due_in_the_second_half_of_its_life() {
        for (from, to, is_due) in [(0, 10, false), (4, 6, false), (9, 1, true), (20, 0, true)] {
            assert_eq!(Renewal::of(&certificate(from, to)).is_due(), is_due, "{from} {to}");
        }
    }

    #[test]
    fn failures_are_spaced_out() {
        let mut renewal = Renewal::of(&certificate(9, 1));
        let pauses: Vec<u64> = (0..12).map(|_| renewal.failed().as_secs()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
    }
}
