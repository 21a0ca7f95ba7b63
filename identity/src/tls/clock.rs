//! The wall clock as TLS asks for it.

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use skep_host::clock;
use std::time::Duration;

/// The wall clock of this process, with its offset.
#[derive(Debug, Clone, Copy)]
pub struct WallClock;

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_nanos(clock::now().0)))
    }
}
