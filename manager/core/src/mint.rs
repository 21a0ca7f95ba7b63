//! The one source of ids and random choices in the core: seeded, with one
//! stream per purpose, so that a new use of one stream does not change another.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a random choice is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Ids of objects.
    Id = 1,
    /// Timeouts of raft elections.
    Election = 2,
    /// Raft ids of members.
    RaftId = 3,
    /// Everything else.
    Choice = 4,
}

/// Streams of random numbers from one seed.
#[derive(Debug, Clone)]
pub struct Mint {
    streams: [ChaCha8Rng; 4],
}

impl Mint {
    /// The streams of a seed; the same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        let stream = |number: u64| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(number);
            rng
        };
        Self { streams: [stream(1), stream(2), stream(3), stream(4)] }
    }

    /// The next number of a purpose's stream.
    pub fn number(&mut self, purpose: Purpose) -> u64 {
        self.streams[purpose as usize - 1].next_u64()
    }

    /// Sixteen random bytes for an id.
    pub fn id(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.streams[Purpose::Id as usize - 1].fill_bytes(&mut bytes);
        bytes
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, purpose: Purpose, bound: u64) -> u64 {
        self.number(purpose) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_one_history_and_streams_are_independent() {
        let (mut a, mut b) = (Mint::new(7), Mint::new(7));
        b.number(Purpose::Choice);
        assert_eq!(a.id(), b.id());
        assert_ne!(Mint::new(8).id(), Mint::new(7).id());
    }
}
